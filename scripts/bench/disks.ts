/** Disks with data that cannot be compressed, and VMs that have them and do nothing else. */
import { randomBytes } from 'node:crypto';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import type { Unwind } from '../../src/flow/unwind.js';
import { createImage } from '../../test/support/lab/disk-images.js';
import { write } from '../../test/support/lab/guest-writes.js';
import { startQemu, type Vm } from '../../test/support/lab/qemu.js';
import { MiB } from './case.js';

const PIECE = 64 * MiB;

export interface DiskToMake {
  readonly id: string;
  /** Bytes. */
  readonly size: number;
  /** Bytes of data from its beginning on, in pieces of 64 MiB. */
  readonly data: number;
}

/** A qcow2 image. */
export async function makeDisk(file: string, { size, data }: Omit<DiskToMake, 'id'>): Promise<void> {
  await createImage({ file, size, format: 'qcow2' });
  if (data === 0) return;
  const random = `${file}.random`;
  await writeFile(random, randomBytes(PIECE));
  const pieces = Array.from({ length: data / PIECE }, (_, index) => index * PIECE);
  const writes = pieces.flatMap((offset) => ['-c', `write -q -s ${random} ${offset} ${PIECE}`]);
  await execa('qemu-io', ['-f', 'qcow2', ...writes, file]);
  await rm(random);
}

/** In a folder that is named by the VM. */
export async function startVm(dir: string, name: string, disks: readonly DiskToMake[], unwind: Unwind): Promise<Vm> {
  const made = disks.map((disk) => ({ ...disk, file: join(dir, name, `${disk.id}.qcow2`) }));
  await mkdir(join(dir, name));
  for (const disk of made) await makeDisk(disk.file, disk);
  return startVmWith(dir, name, made, unwind);
}

export async function startVmWith(
  dir: string,
  name: string,
  disks: readonly { readonly id: string; readonly file: string }[],
  unwind: Unwind,
): Promise<Vm> {
  const vm = await startQemu({ dir: join(dir, name), name, disks: disks.map(({ id, file }) => ({ id, file })) });
  unwind.defer(() => vm.kill());
  return vm;
}

let written = 0;

/** Other bytes than before, at the beginning of a disk. */
export async function change(vm: Parameters<typeof write>[0], disk: string, length: number): Promise<void> {
  written += 1;
  await write(vm, disk, { offset: 0, length, pattern: (written % 255) + 1 });
}

/** So that a VM does not have more to do round by round. */
export async function removeBitmaps(vm: Vm): Promise<void> {
  const nodes = (await vm.control.execute('query-named-block-nodes', { flat: true })) as readonly NamedNode[];
  for (const { 'node-name': node, 'dirty-bitmaps': bitmaps = [] } of nodes) {
    for (const { name } of bitmaps) await vm.control.execute('block-dirty-bitmap-remove', { node, name });
  }
}

interface NamedNode {
  readonly 'node-name': string;
  readonly 'dirty-bitmaps'?: readonly { readonly name: string }[];
}

/** The instant of a running VM's disk as QEMU exports it: fleeced by its commands alone, without any of the code that is measured against it. */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import type { Vm } from '../../test/support/lab/qemu.js';

const [SCRATCH, FILTER, SNAPSHOT] = ['bench-scratch', 'bench-filter', 'bench-snapshot'];

/** Holds the instant for as long as `body` takes, which is given its URI. */
export async function withBareInstant<T>(
  { control, dir }: Vm,
  disk: string,
  body: (uri: string) => Promise<T>,
): Promise<T> {
  const [file, socket] = [join(dir, 'bench.scratch'), join(dir, 'bench.nbd')];
  const devices = (await control.execute('query-block')) as readonly BlockDevice[];
  const device = devices.find((each) => each.device === disk);
  if (!device) throw new Error(`no guest device has ${disk}`);
  const { qdev, inserted } = device;
  await execa('qemu-img', ['create', '-q', '-f', 'qcow2', file, String(inserted.image['virtual-size'])]);
  const add = (node: Record<string, unknown>): Promise<unknown> => control.execute('blockdev-add', node);
  const drive = (value: string): Promise<unknown> =>
    control.execute('qom-set', { path: qdev, property: 'drive', value });
  await add({ driver: 'qcow2', 'node-name': SCRATCH, file: { driver: 'file', filename: file } });
  await add({ driver: 'copy-before-write', 'node-name': FILTER, file: inserted['node-name'], target: SCRATCH });
  await drive(FILTER);
  await add({ driver: 'snapshot-access', 'node-name': SNAPSHOT, file: FILTER });
  await control.execute('nbd-server-start', { addr: { type: 'unix', data: { path: socket } } });
  await control.execute('block-export-add', { type: 'nbd', id: SNAPSHOT, 'node-name': SNAPSHOT, name: disk });
  try {
    return await body(`nbd+unix:///${disk}?socket=${socket}`);
  } finally {
    await control.execute('nbd-server-stop');
    await control.execute('blockdev-del', { 'node-name': SNAPSHOT });
    await drive(inserted['node-name']);
    await control.execute('blockdev-del', { 'node-name': FILTER });
    await control.execute('blockdev-del', { 'node-name': SCRATCH });
    await rm(file);
  }
}

interface BlockDevice {
  readonly device: string;
  readonly qdev: string;
  readonly inserted: { readonly 'node-name': string; readonly image: { readonly 'virtual-size': number } };
}

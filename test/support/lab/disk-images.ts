/**
 * Makes the disk images of a test: empty ones, ext4 file systems for the guest, and the disks of the counter workload.
 */
import { open, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { run, withTemporaryDir } from './programs.js';

export type ImageFormat = 'qcow2' | 'raw';

/** Where the counter workload keeps its number: see the program `counter` of the guest. */
export const COUNTER_OFFSET = 4096;

const MIB = 1024 * 1024;

export interface ImageOptions {
  readonly file: string;
  readonly format: ImageFormat;
  /** Virtual size in bytes. */
  readonly size: number;
  /** qcow2 only: 0.10 is version 2, which takes no persistent bitmap. */
  readonly compat?: '1.1' | '0.10';
  readonly backing?: { readonly file: string; readonly format: ImageFormat };
}

/** An empty image. */
export async function createImage(options: ImageOptions): Promise<void> {
  const { file, format, size, compat = '1.1', backing } = options;
  await run('qemu-img', [
    'create',
    '-q',
    ...['-f', format],
    ...(format === 'qcow2' ? ['-o', `compat=${compat}`] : []),
    ...(backing ? ['-b', backing.file, '-F', backing.format] : []),
    file,
    String(size),
  ]);
}

const KEY_TRIES = 60;

/**
 * An empty qcow2 image that is encrypted (LUKS) with `key`. QEMU measures its CPU time for that, and in a virtual machine
 * it fails at random: `Unable to get accurate CPU usage`.
 */
export async function createEncryptedImage(file: string, size: number, key: string): Promise<void> {
  const options = 'encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10';
  const secret = ['--object', `secret,id=key,data=${key}`];
  const args = ['create', '-q', ...secret, '-f', 'qcow2', '-o', options, file, String(size)];
  for (let tries = 1; ; tries += 1) {
    const { exitCode, stderr } = await run('qemu-img', args, { allowed: [0, 1] });
    if (exitCode === 0) return;
    if (!stderr.includes('accurate CPU usage') || tries === KEY_TRIES) throw new Error(stderr);
    await sleep(200);
  }
}

export interface Ext4Options {
  readonly file: string;
  readonly format: ImageFormat;
  /** Bytes; at least 16 MiB. */
  readonly size: number;
  /** The guest mounts `DATA<n>` on `/mnt/d<n>`. */
  readonly label: string;
  /** A folder whose files the new file system starts with. */
  readonly contents?: string;
  /** On the only partition of the image, from `PARTITION_START` on: the guest mounts it only when it is told to. */
  readonly onPartition?: boolean;
}

/** Bytes. */
export const PARTITION_START = MIB;

/** An image with an ext4 file system. Nothing is left for the kernel to initialise later, so an idle guest is idle. */
export async function makeExt4(options: Ext4Options): Promise<void> {
  const { size, label, contents, onPartition = false } = options;
  const start = onPartition ? PARTITION_START : 0;
  await viaRaw(options, async (raw) => {
    await truncateNew(raw, size);
    if (onPartition) await run('sh', ['-c', `echo start=${start / 512} | sfdisk --quiet --label dos "$0"`, raw]);
    await run('mke2fs', [
      ...['-q', '-F', '-t', 'ext4', '-b', '4096', '-m', '0', '-L', label],
      ...['-E', `lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0,offset=${start}`],
      ...(contents === undefined ? [] : ['-d', contents]),
      raw,
      `${(size - start) / 1024}k`,
    ]);
  });
}

/** A disk for `workload=counter`: the guest counts on disk 1, then on disk 2. */
export async function createCounterDisk(options: {
  readonly file: string;
  readonly format: ImageFormat;
  readonly number: 1 | 2;
}): Promise<void> {
  await viaRaw(options, async (raw) => {
    await truncateNew(raw, MIB);
    const handle = await open(raw, 'r+');
    try {
      await handle.write(`LABCOUNTER${options.number}`, 0);
    } finally {
      await handle.close();
    }
  });
}

/**
 * A disk that boots into a guest of 42 bytes: for ever it writes a sector by int 13h, now to the first disk and now to the
 * second, each time on another cylinder.
 */
export async function createWritingDisk(image: {
  readonly file: string;
  readonly format: ImageFormat;
  readonly size: number;
}): Promise<void> {
  await viaRaw(image, async (raw) => {
    const sector = Buffer.alloc(512);
    WRITING_GUEST.copy(sector);
    sector.writeUInt16LE(0xaa55, 510);
    await writeFile(raw, sector);
    await truncate(raw, image.size);
  });
}

const WRITING_GUEST = Buffer.from(
  [
    '31c0 8ec0 8ed8 31f6', // ax, es, ds and the counter si are 0
    '89f0 d1e8 83e01f 88c5', // again: cylinder ch = si / 2 % 32
    'b102 b600', // sector 2 of head 0
    '89f0 2401 0c80 88c2', // drive dl = 80h + si % 2
    'b80103 bb007c', // write 1 sector, from here
    '56 cd13 5e 46', // int 13h; si += 1
    'ebde',
  ]
    .join('')
    .replaceAll(' ', ''),
  'hex',
);

async function viaRaw(
  image: { readonly file: string; readonly format: ImageFormat },
  fill: (raw: string) => Promise<void>,
): Promise<void> {
  await withTemporaryDir(async (dir) => {
    const raw = join(dir, 'raw');
    await fill(raw);
    switch (image.format) {
      case 'raw':
        await run('qemu-img', ['convert', '-f', 'raw', '-O', 'raw', raw, image.file]);
        break;
      case 'qcow2':
        await run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', '-o', 'compat=1.1', raw, image.file]);
        break;
    }
  });
}

async function truncateNew(file: string, size: number): Promise<void> {
  await (await open(file, 'w')).close();
  await truncate(file, size);
}

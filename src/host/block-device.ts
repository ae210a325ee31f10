import { constants, type Stats } from 'node:fs';
import { open, readdir, readFile, realpath, stat } from 'node:fs/promises';
import { QmpBackupError } from '../errors.js';
import { codeOf, fileError } from './file-errors.js';

/** A block device that is ours to write to: nobody mounts it, or makes it part of something, until it is let go. */
export interface ClaimedDevice {
  /** Its real path. */
  readonly path: string;
  /** Bytes. */
  readonly size: number;
  readonly release: () => Promise<void>;
}

const SECTOR = 512;

/** @throws QmpBackupError `unsafe` for one that is mounted, part of something else, or read-only */
export async function claimDevice(named: string): Promise<ClaimedDevice> {
  try {
    const path = await realpath(named);
    const sysfs = await inKernel(path);
    // Linux opens some for writing that it then refuses to write to.
    if ((await attribute(sysfs, 'ro')) !== 0) throw refused(path, 'it is read-only', 'Choose another device.');
    // What is mounted, or held by LVM, RAID, swap …, was opened so before; what is opened so cannot be mounted.
    const handle = await open(path, constants.O_RDWR | constants.O_EXCL | constants.O_NOFOLLOW);
    return { path, size: await sizeIn(sysfs), release: () => handle.close() };
  } catch (error) {
    if (codeOf(error) !== 'EBUSY') throw fileError('write to', named, error);
    throw refused(
      named,
      `it is in use${await byWhom(named)}`,
      'Unmount it, or take it out of what it is part of, first.',
    );
  }
}

/** Bytes; null for what is no block device. @throws QmpBackupError */
export async function deviceSize(path: string): Promise<number | null> {
  try {
    if (!(await stat(path)).isBlockDevice()) return null;
    return await sizeIn(await inKernel(path));
  } catch (error) {
    throw fileError('look at', path, error);
  }
}

/** Whether two block devices are one, by whatever names, or one is a partition of the other. */
export async function shareBytes(a: string, b: string): Promise<boolean> {
  const [first, second] = [`${await inKernel(a)}/`, `${await inKernel(b)}/`];
  return first.startsWith(second) || second.startsWith(first);
}

/** Where the kernel keeps it: a partition is below its disk. */
async function inKernel(path: string): Promise<string> {
  return realpath(`/sys/dev/block/${numberOf(await stat(path))}`);
}

async function sizeIn(sysfs: string): Promise<number> {
  return (await attribute(sysfs, 'size')) * SECTOR;
}

async function attribute(sysfs: string, name: string): Promise<number> {
  return Number(await readFile(`${sysfs}/${name}`, 'utf8'));
}

/** As the kernel writes it, `253:0`. */
function numberOf({ rdev }: Stats): string {
  const major = ((rdev >>> 8) & 0xfff) | (Math.floor(rdev / 2 ** 32) & ~0xfff);
  const minor = (rdev & 0xff) | ((rdev >>> 12) & 0xfff00);
  return `${major}:${minor}`;
}

async function byWhom(path: string): Promise<string> {
  try {
    const number = numberOf(await stat(path));
    const mounts = (await readFile('/proc/self/mountinfo', 'utf8')).split('\n').map((line) => line.split(' '));
    const mounted = mounts.find((words) => words[2] === number)?.[4];
    if (mounted !== undefined) return `: it is mounted at ${mounted}`;
    const holders = await readdir(`/sys/dev/block/${number}/holders`);
    return holders.length === 0 ? '' : `: it is part of ${holders.join(', ')}`;
  } catch (error) {
    if (codeOf(error) === undefined) throw error;
    return '';
  }
}

function refused(path: string, why: string, hint: string): QmpBackupError {
  return new QmpBackupError('unsafe', `${path} is not written to: ${why}`, { hint });
}

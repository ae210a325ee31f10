/** Where a run of the bench keeps its files: memory (tmpfs) whose pages are warm, or a disk. */
import { rmSync } from 'node:fs';
import { mkdtemp, open, readFile, realpath, rm, statfs } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa, execaSync } from 'execa';
import { GiB, MiB } from './case.js';

export interface Place {
  readonly where: 'memory' | 'disk';
  readonly dir: string;
  /** The file system below, in words. */
  readonly what: string;
  /** Throws NotHere where there is not so much room. In memory the pages that the case will use are touched. */
  readonly makeRoom: (bytes: number) => Promise<void>;
  /** What is to be written is written. */
  readonly settle: () => Promise<void>;
  /** Takes all of it away. */
  readonly remove: () => void;
}

/** What a case needs is not on this machine: it is left out, and that is said. */
export class NotHere extends Error {}

const SHARED_MEMORY = '/dev/shm';
const TMPFS = 0x01021994;
/** Left to everything else on the machine. */
const LEFT = GiB;
/** What a shared memory must have before it is used; containers are often given 64 MiB. */
const ENOUGH = 6 * GiB;

export async function openPlace(where: Place['where']): Promise<Place> {
  return where === 'memory' ? memory() : disk();
}

async function memory(): Promise<Place> {
  const shared = await statfs(SHARED_MEMORY);
  if (shared.type === TMPFS && shared.bavail * shared.bsize >= ENOUGH) {
    return inMemory(await mkdtemp(join(SHARED_MEMORY, 'bench-')), `tmpfs at ${SHARED_MEMORY}`, () => undefined);
  }
  if (process.getuid?.() !== 0) {
    throw new Error(`${SHARED_MEMORY} is no tmpfs with 6 GiB free, and only root can mount another: run it as root`);
  }
  const dir = await mkdtemp(join(tmpdir(), 'bench-'));
  await execa('mount', ['-t', 'tmpfs', '-o', 'size=90%', 'qmpbackup-bench', dir]);
  return inMemory(dir, 'a tmpfs of its own', () => void execaSync('umount', ['--lazy', dir]));
}

function inMemory(dir: string, what: string, unmount: () => void): Place {
  return {
    where: 'memory',
    dir,
    what,
    makeRoom: async (bytes) => {
      const [free, available] = [await freeIn(dir), await availableMemory()];
      if (Math.min(free, available - LEFT) < bytes) {
        throw new NotHere(
          `it needs ${inGiB(bytes)} GiB of memory and 1 more for the rest; there are ${inGiB(Math.min(free, available))}`,
        );
      }
      await touch(join(dir, 'touched'), bytes);
    },
    settle: () => Promise.resolve(),
    remove: () => {
      unmount();
      removeAll(dir);
    },
  };
}

async function disk(): Promise<Place> {
  const parent = await realpath(tmpdir());
  const { type } = await statfs(parent);
  if (type === TMPFS) throw new Error(`${parent} is memory: set TMPDIR to a folder on a disk for --where disk`);
  const { stdout } = await execa('findmnt', ['--noheadings', '--output', 'FSTYPE', '--target', parent]);
  const dir = await mkdtemp(join(parent, 'bench-'));
  return {
    where: 'disk',
    dir,
    what: `${stdout.trim()} at ${parent}`,
    makeRoom: async (bytes) => {
      const free = await freeIn(dir);
      if (free - LEFT < bytes) throw new NotHere(`it needs ${inGiB(bytes)} GiB in ${parent}; there are ${inGiB(free)}`);
    },
    settle: async () => {
      await execa('sync', ['--file-system', dir]);
    },
    remove: () => removeAll(dir),
  };
}

/** After a signal the programs that were just measured may still write for a moment. */
function removeAll(dir: string): void {
  for (let tries = 1; ; tries += 1) {
    try {
      rmSync(dir, { recursive: true, force: true });
      return;
    } catch (error) {
      if (tries === REMOVE_TRIES) throw error;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, REMOVE_EVERY_MS);
    }
  }
}

const REMOVE_TRIES = 30;
const REMOVE_EVERY_MS = 100;

/** A page that nobody had before costs four times as much as one that was used and let go, above all in a VM. */
async function touch(path: string, bytes: number): Promise<void> {
  const piece = Buffer.alloc(4 * MiB, 1);
  const handle = await open(path, 'w');
  try {
    for (let written = 0; written < bytes; written += piece.length) await handle.write(piece);
  } finally {
    await handle.close();
    await rm(path);
  }
}

async function freeIn(dir: string): Promise<number> {
  const { bavail, bsize } = await statfs(dir);
  return bavail * bsize;
}

async function availableMemory(): Promise<number> {
  const kib = /^MemAvailable:\s+(\d+) kB$/m.exec(await readFile('/proc/meminfo', 'utf8'))?.[1];
  if (kib === undefined) throw new Error('/proc/meminfo does not say what memory is available');
  return Number(kib) * 1024;
}

function inGiB(bytes: number): string {
  return (bytes / GiB).toFixed(1);
}

import { type ChildProcess, spawn } from 'node:child_process';
import { mkdir, rm, statfs, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { run } from './lab/programs.js';
import { afterTest } from './scenario.js';

/**
 * Targets that misbehave: one that is small and can be filled from outside, and one whose server stops answering, as an
 * NFS server does that went away. Mounting needs root; without it these tests fail and say so.
 */
export interface SmallTarget {
  /** Another program uses all space but so many bytes. */
  fillBut(bytes: number): Promise<void>;
  /** All space, also what others take meanwhile. */
  fill(): Promise<void>;
  /** It takes all of that away again. */
  empty(): Promise<void>;
}

export async function mountSmall(folder: string, size: number): Promise<SmallTarget> {
  await mkdir(folder);
  await run('mount', ['-t', 'tmpfs', '-o', `size=${size},mode=0755`, 'qmplab', folder]);
  afterTest(() => run('umount', ['-l', folder]));
  const filler = join(folder, 'somebody-else');
  return {
    fillBut: async (bytes) => {
      const { bavail, bsize } = await statfs(folder);
      await writeFile(filler, Buffer.alloc(bavail * bsize - bytes, 1));
    },
    fill: async () => {
      const { stderr } = await run('dd', ['if=/dev/zero', `of=${filler}`, 'bs=1M'], { allowed: [1] });
      if (!stderr.includes('No space left')) throw new Error(stderr);
    },
    empty: () => rm(filler),
  };
}

export interface BoundedFolder {
  /** How long a file may get, in bytes. */
  bound(bytes: number | 'unlimited'): Promise<void>;
}

/** A server that refuses what goes beyond some length of a file (EFBIG), as one with FAT does; it has no bound at first. */
export async function mountBounded(folder: string): Promise<BoundedFolder> {
  const store = `${folder}-store`;
  for (const each of [folder, store]) await mkdir(each);
  const server = await mountFolder(store, folder);
  return {
    bound: async (bytes) => {
      await run('prlimit', ['--pid', String(server.pid), `--fsize=${bytes}:unlimited`]);
    },
  };
}

/** A file system that takes no direct I/O. */
export async function mountWithoutDirectIo(folder: string): Promise<void> {
  await mkdir(folder);
  await run('mount', ['-t', 'ramfs', '-o', 'mode=0755', 'qmplab', folder]);
  afterTest(() => run('umount', ['-l', folder]));
}

export interface HangingTarget {
  /** From now on whatever touches the target hangs. */
  hang(): void;
  answer(): void;
  /** Pid of the process that does: by SIGSTOP to it the target hangs as by `hang`. */
  readonly server: number;
}

/**
 * A FUSE mount of another folder, by a program that can be stopped; and one more above it. What calls the upper one hangs
 * in a call that its server has taken up: there not even SIGKILL ends it. (With the lower one alone that was so by chance.)
 */
export async function mountHanging(folder: string): Promise<HangingTarget> {
  const store = `${folder}-store`;
  const middle = `${folder}-middle`;
  for (const each of [folder, store, middle]) await mkdir(each);
  const lower = await mountFolder(store, middle);
  await mountFolder(middle, folder);
  const answer = (): void => void lower.kill('SIGCONT');
  const hang = (): void => {
    // The first thing after the test: whatever hangs then has to end before anything else can.
    afterTest(() => Promise.resolve(answer()));
    lower.kill('SIGSTOP');
  };
  return { hang, answer, server: lower.pid! };
}

async function mountFolder(from: string, to: string): Promise<ChildProcess> {
  // The kernel kills it with us, also when it is stopped: then what touches the mount fails and nothing hangs.
  // By another name than its folder, which mke2fs would look at; with a thread for each call, so that it takes up all.
  const bindfs = ['bindfs', '-f', '--multithreaded', '-o', 'fsname=qmplab', from, to];
  const inShell = ['sh', '-c', 'trap "" XFSZ; exec "$@"', 'sh'];
  const server = spawn('setpriv', ['--pdeathsig', 'KILL', ...inShell, ...bindfs], { stdio: 'ignore' });
  const ended = new Promise((resolve) => server.once('close', resolve));
  afterTest(async () => {
    await run('umount', ['-l', to]);
    server.kill('SIGKILL');
    await ended;
  });
  const FUSE = 0x65735546;
  for (let type = 0; type !== FUSE; { type } = await statfs(to)) {
    if (server.exitCode !== null) throw new Error(`bindfs ended with ${server.exitCode}`);
    await sleep(20);
  }
  return server;
}

/** A file system of so many bytes whose files can share blocks, in a file beside it. */
export async function mountReflinked(folder: string, size: number): Promise<void> {
  await mkdir(folder);
  const image = `${folder}.xfs`;
  await writeFile(image, '');
  await truncate(image, size);
  await run('mkfs.xfs', ['-q', '-m', 'reflink=1', image]);
  await run('mount', ['-o', 'loop', image, folder]);
  afterTest(() => run('umount', ['-l', folder]));
}

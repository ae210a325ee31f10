import { spawn } from 'node:child_process';
import { mkdir, rm, statfs, writeFile } from 'node:fs/promises';
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
}

/** A FUSE mount of another folder, by a program that can be stopped. */
export async function mountHanging(folder: string): Promise<HangingTarget> {
  const store = `${folder}-store`;
  await mkdir(folder);
  await mkdir(store);
  // The kernel kills it with us, also when it is stopped: then what touches the mount fails and nothing hangs.
  const server = spawn('setpriv', ['--pdeathsig', 'KILL', 'bindfs', '-f', store, folder], { stdio: 'ignore' });
  const ended = new Promise((resolve) => server.once('close', resolve));
  const answer = (): void => void server.kill('SIGCONT');
  afterTest(async () => {
    answer();
    await run('umount', ['-l', folder]);
    server.kill('SIGKILL');
    await ended;
  });
  const FUSE = 0x65735546;
  for (let type = 0; type !== FUSE; { type } = await statfs(folder)) {
    if (server.exitCode !== null) throw new Error(`bindfs ended with ${server.exitCode}`);
    await sleep(20);
  }
  return { hang: () => void server.kill('SIGSTOP'), answer };
}

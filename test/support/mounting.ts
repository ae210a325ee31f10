import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fuseMounts } from '../../src/host/mounts.js';
import type { Warning } from '../../src/core/warning.js';
import { startCli } from './cli.js';
import { afterTest } from './scenario.js';

export interface MountAnswer {
  readonly point: string;
  readonly mountpoint: string;
  readonly disks: readonly {
    readonly disk: string;
    readonly path: string;
    readonly virtualSize: number;
    readonly files: readonly string[];
  }[];
  readonly warnings: readonly Warning[];
}

export interface Mounting extends MountAnswer {
  readonly pid: number;
  /** Its exit code, when it has ended; null after SIGKILL. */
  readonly ended: Promise<number | null>;
  /** Ends it, and gives its exit code; null after SIGKILL. */
  end(signal?: NodeJS.Signals): Promise<number | null>;
}

/** `qmpbackup --json mount …` in the foreground, as soon as the files are there. Ended after the test. */
export async function startMount(args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Mounting> {
  const child = startCli(['--json', 'mount', ...args], { env });
  let [told, over] = ['', false];
  child.stdout.on('data', (chunk: Buffer) => (told += chunk.toString()));
  const finished = child.then((end) => {
    over = true;
    return end;
  });
  const ended = finished.then(({ exitCode }) => exitCode ?? null);
  const end = (signal: NodeJS.Signals = 'SIGINT'): Promise<number | null> => {
    child.kill(signal);
    return ended;
  };
  afterTest(() => end('SIGTERM'));
  while (!told.endsWith('}\n')) {
    if (over) throw new Error(`it ended before it had mounted:\n${String((await finished).stderr)}`);
    await sleep(10);
  }
  return { ...(JSON.parse(told) as MountAnswer), pid: child.pid ?? 0, ended, end };
}

/** What FUSE programs serve below a folder, dead or not. */
export function mountsBelow(folder: string): readonly string[] {
  return fuseMounts()
    .map(({ point }) => point)
    .filter((point) => point.startsWith(`${folder}/`));
}

/** Kills the daemons of a run that goes on, each of which may end by itself before. */
export async function killDaemonsOf(folder: string): Promise<void> {
  for (const pid of await daemonsOf(folder)) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
    }
  }
}

/** Storage daemons whose sockets are below `folder`. */
export async function daemonsOf(folder: string): Promise<readonly number[]> {
  const found: number[] = [];
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    const command = await readFile(join('/proc', pid, 'cmdline'), 'utf8').catch(() => '');
    if (command.includes(folder) && command.includes('qemu-storage-daemon')) found.push(Number(pid));
  }
  return found;
}

import { setTimeout as sleep } from 'node:timers/promises';
import type { Warning } from '../../src/core/warning.js';
import { startCli } from './cli.js';
import { afterTest } from './scenario.js';

export interface Serving {
  readonly pid: number;
  readonly point: string;
  readonly disks: readonly {
    readonly disk: string;
    readonly uri: string;
    readonly overlay: string | null;
    readonly files: readonly string[];
  }[];
  readonly warnings: readonly Warning[];
  /** Ends it, and gives its exit code; null after SIGKILL. */
  end(signal?: NodeJS.Signals): Promise<number | null>;
}

/** `qmpbackup --json serve …` in the background, as soon as it serves. Ended after the test. */
export async function startServe(args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Serving> {
  const child = startCli(['--json', 'serve', ...args], { env });
  let [told, over] = ['', false];
  child.stdout.on('data', (chunk: Buffer) => (told += chunk.toString()));
  const ended = child.then((end) => {
    over = true;
    return end;
  });
  const end = async (signal: NodeJS.Signals = 'SIGINT'): Promise<number | null> => {
    child.kill(signal);
    return (await ended).exitCode ?? null;
  };
  afterTest(() => end('SIGKILL'));
  while (!told.endsWith('}\n')) {
    if (over) throw new Error(`it ended before it served:\n${String((await ended).stderr)}`);
    await sleep(10);
  }
  const { point, disks, warnings } = JSON.parse(told) as Pick<Serving, 'point' | 'disks' | 'warnings'>;
  return { pid: child.pid ?? 0, point, disks, warnings, end };
}

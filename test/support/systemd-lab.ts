import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { LAB_ENV, type ProgramResult, projectRoot, run } from './lab/programs.js';
import { patient } from './patience.js';

/** A systemd of its own (`scripts/start-systemd`): process 1 of a namespace, on an overlay of this host's root. */
export interface SystemdLab {
  /** Runs a program that sees what the units of this systemd see. */
  inside(args: readonly string[], options?: { readonly allowed?: readonly number[] }): Promise<ProgramResult>;
  systemctl(...args: readonly string[]): Promise<string>;
  /** Ends it with all that it has started. */
  close(): Promise<void>;
}

const START_MS = patient(60_000);

/** `dir` is the same inside, and what lies in `dir/files` is laid over the root. */
export async function startSystemd(dir: string): Promise<SystemdLab> {
  const script = join(projectRoot(), 'scripts/start-systemd');
  const child = spawn('setpriv', ['--pdeathsig', 'TERM', script, dir], {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, ...LAB_ENV },
  });
  let said = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => (said += text));
  const exited = new Promise<void>((resolve) => child.once('close', () => resolve()));
  const close = async (): Promise<void> => {
    child.kill('SIGTERM');
    await exited;
  };
  const listens = join(dir, 'systemd.pid');
  for (const until = Date.now() + START_MS; !existsSync(listens); await sleep(100)) {
    if (child.exitCode === null && Date.now() < until) continue;
    await close();
    throw new Error(`scripts/start-systemd has not started one: ${said}`);
  }
  const pid = (await readFile(listens, 'utf8')).trim();
  const inside: SystemdLab['inside'] = (args, options) => run('nsenter', ['--target', pid, '--all', ...args], options);
  return {
    inside,
    systemctl: async (...args) => (await inside(['systemctl', '--no-pager', ...args])).stdout,
    close,
  };
}

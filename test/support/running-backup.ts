import { setTimeout as sleep } from 'node:timers/promises';
import { startCli } from './cli.js';
import type { Vm } from './lab/qemu.js';
import { afterTest } from './scenario.js';

/**
 * A backup that goes on in the background, and what the test's own monitor sees of it meanwhile. With a speed limit it
 * lasts as long as a test needs to do something to it.
 */
export interface RunningBackup {
  readonly pid: number;
  running(): boolean;
  kill(signal: NodeJS.Signals): void;
  /** How it ended; it never rejects. */
  readonly ended: Promise<Ending>;
}

export interface Ending {
  readonly exitCode: number | undefined;
  readonly signal: NodeJS.Signals | undefined;
  readonly stdout: string;
  readonly stderr: string;
}

export interface Job {
  readonly id: string;
  readonly status: string;
  readonly 'current-progress': number;
}

export interface BackedUp {
  readonly vm: Vm;
  readonly target: string;
}

/** `qmpbackup --json --socket … backup --level … --target …`; killed after the test if it has not ended. */
export function startBackup({ vm, target }: BackedUp, level: string, ...more: readonly string[]): RunningBackup {
  return startRun(['--socket', vm.socket, 'backup', '--level', level, '--target', target, ...more]);
}

export function startRun(args: readonly string[]): RunningBackup {
  const child = startCli(['--json', ...args]);
  let over = false;
  const ended = child.then(({ exitCode, signal, stdout, stderr }): Ending => {
    over = true;
    return { exitCode, signal, stdout: String(stdout), stderr: String(stderr) };
  });
  afterTest(async () => {
    child.kill('SIGKILL');
    await ended;
  });
  return { pid: child.pid!, running: () => !over, kill: (signal) => void child.kill(signal), ended };
}

/** Block jobs of a backup of ours. */
export async function ourJobs(vm: Vm): Promise<readonly Job[]> {
  const jobs = (await vm.control.execute('query-jobs')) as Job[];
  return jobs.filter(({ id }) => id.startsWith('qmpbackup-'));
}

/** Waits until so many jobs of the backup are copying. */
export async function untilCopying({ vm }: BackedUp, run: RunningBackup, count = 2): Promise<readonly Job[]> {
  return untilJobs(vm, run, (jobs) => {
    const copying = jobs.filter((job) => job.status === 'running' && job['current-progress'] > 0);
    return copying.length === count;
  });
}

/** Waits until `condition` holds for our jobs; throws if `run` ends before. */
export async function untilJobs(
  vm: Vm,
  run: RunningBackup | undefined,
  condition: (jobs: readonly Job[]) => boolean,
): Promise<readonly Job[]> {
  for (let jobs = await ourJobs(vm); ; jobs = await ourJobs(vm)) {
    if (condition(jobs)) return jobs;
    if (run && !run.running()) {
      const { exitCode, signal, stderr } = await run.ended;
      throw new Error(`the backup ended (${signal ?? exitCode}) before its jobs were seen:\n${stderr}`);
    }
    await sleep(10);
  }
}

/** Lets the jobs run as fast as they can, and waits for their ends. */
export async function untilConcluded(vm: Vm): Promise<readonly Job[]> {
  for (const { id, status } of await ourJobs(vm)) {
    if (status === 'concluded') continue;
    // It may conclude just now; then it needs no more speed.
    await vm.control.execute('block-job-set-speed', { device: id, speed: 0 }).catch((error: unknown) => {
      if (!String(error).includes("'concluded'")) throw error;
    });
  }
  return untilJobs(vm, undefined, (jobs) => jobs.every(({ status }) => status === 'concluded'));
}

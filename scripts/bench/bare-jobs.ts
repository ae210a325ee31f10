/** What QEMU itself takes for a backup: its commands alone, without any of the code that is measured against them. */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { syncFile } from '../../src/host/durable.js';
import type { Vm } from '../../test/support/lab/qemu.js';
import { timed } from './case.js';

/** `inc`: what changed since `recordChanges`. */
export type BareLevel = 'full' | 'inc';

/** Since when a bare increment copies. */
const RECORDED = 'bench-recorded';
const NEW = 'bench-new';
const ENDED_MS = 600_000;

/** From the transaction on until all disks are copied and on the disk: milliseconds. */
export async function bareJobs(vm: Vm, dir: string, level: BareLevel): Promise<number> {
  const jobs = await jobsOf(vm, dir);
  const ms = await timed(async () => {
    await transaction(vm, jobs, level);
    await ended(vm, jobs);
    for (const { file } of jobs) await syncFile(file);
  });
  await takeAway(vm, jobs);
  return ms;
}

/** The transaction alone, which begins a bitmap and a job per disk: milliseconds. */
export async function bareTransaction(vm: Vm, dir: string, level: BareLevel): Promise<number> {
  const jobs = await jobsOf(vm, dir);
  const ms = await timed(() => transaction(vm, jobs, level));
  for (const { job } of jobs) await vm.control.execute('job-cancel', { id: job }).catch(unlessEnded);
  await ended(vm, jobs);
  await takeAway(vm, jobs);
  return ms;
}

export async function recordChanges(vm: Vm): Promise<void> {
  for (const { id } of vm.options.disks) {
    await vm.control.execute('block-dirty-bitmap-add', { node: id, name: RECORDED });
  }
}

export async function forgetChanges(vm: Vm): Promise<void> {
  for (const { id } of vm.options.disks) {
    await vm.control.execute('block-dirty-bitmap-remove', { node: id, name: RECORDED });
  }
}

interface Job {
  readonly disk: string;
  readonly job: string;
  readonly file: string;
}

async function jobsOf(vm: Vm, dir: string): Promise<readonly Job[]> {
  const jobs = vm.options.disks.map(({ id, file }) => ({
    job: { disk: id, job: `bench-${id}`, file: join(dir, `bare-${id}.qcow2`) },
    source: String(file),
  }));
  for (const { job, source } of jobs) {
    const { stdout } = await execa('qemu-img', ['info', '-U', '--output=json', source]);
    const { 'virtual-size': bytes } = JSON.parse(stdout) as { readonly 'virtual-size': number };
    await execa('qemu-img', ['create', '-q', '-f', 'qcow2', job.file, String(bytes)]);
  }
  return jobs.map(({ job }) => job);
}

async function transaction(vm: Vm, jobs: readonly Job[], level: BareLevel): Promise<void> {
  const which = level === 'full' ? { sync: 'full' } : { sync: 'bitmap', bitmap: RECORDED, 'bitmap-mode': 'never' };
  await vm.control.execute('transaction', {
    actions: [
      ...jobs.map(({ disk }) => ({ type: 'block-dirty-bitmap-add', data: { node: disk, name: NEW } })),
      ...jobs.map(({ disk, job, file }) => ({
        type: 'drive-backup',
        data: {
          ...{ device: disk, 'job-id': job, target: file, format: 'qcow2', mode: 'existing', 'auto-dismiss': false },
          ...which,
        },
      })),
    ],
  });
}

async function ended(vm: Vm, jobs: readonly Job[]): Promise<void> {
  const events = vm.control.events(['JOB_STATUS_CHANGE']);
  try {
    for (;;) {
      const all = (await vm.control.execute('query-jobs')) as readonly { id: string; status: string; error?: string }[];
      const ours = all.filter(({ id }) => jobs.some(({ job }) => job === id));
      if (ours.every(({ status }) => status === 'concluded')) {
        const failed = ours.find(({ error }) => error !== undefined && error !== 'Operation canceled');
        if (failed) throw new Error(`the bare job ${failed.id}: ${failed.error}`);
        return;
      }
      if (!(await events.next({ timeoutMs: ENDED_MS }))) throw new Error('a bare job does not end');
    }
  } finally {
    events.close();
  }
}

async function takeAway(vm: Vm, jobs: readonly Job[]): Promise<void> {
  for (const { disk, job, file } of jobs) {
    await vm.control.execute('job-dismiss', { id: job });
    await vm.control.execute('block-dirty-bitmap-remove', { node: disk, name: NEW });
    await rm(file);
  }
}

/** A job of a small disk has ended before it is cancelled. */
function unlessEnded(error: unknown): void {
  if (!/cannot accept command verb 'cancel'|not found/.test(String(error))) throw error;
}

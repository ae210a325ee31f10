import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { MiB } from '../support/builders.js';
import { expectCli } from '../support/cli.js';
import { compareImages } from '../support/lab/compare.js';
import { flush, write } from '../support/lab/guest-writes.js';
import { type BoundedFolder, mountBounded } from '../support/mounts.js';
import { patient } from '../support/patience.js';
import { type RunningBackup, startBackup, untilConcluded, untilCopying, untilJobs } from '../support/running-backup.js';
import { scenario, type Scenario } from '../support/scenario.js';

/**
 * The copy of one disk fails because its target does, or because somebody cancels its job. Jobs that are not fleeced write to the
 * target before the guest may write: they must not be left to meet the same.
 */
const IDS = ['d1', 'd2', 'd3'];
const BOUND = 4 * MiB;

interface Answer {
  readonly point: {
    readonly number: number;
    readonly disks: readonly { readonly disk: string; readonly level: string }[];
    readonly lacks?: readonly { readonly disk: string; readonly kind: string; readonly reason: string }[];
  };
}

interface Lab {
  readonly lab: Scenario;
  readonly target: BoundedFolder;
}

/** With a FULL; then more has changed on d1 than a file of the target may hold, and less on the others. */
async function threeDisks(): Promise<Lab> {
  const lab = await scenario(IDS.map((id) => ({ id, size: 64 * MiB })));
  const target = await mountBounded(lab.target);
  for (const id of IDS) await write(lab.vm, id, { offset: 0, length: MiB, pattern: 0x11 });
  await lab.backup('full', '--fleece', 'never');
  for (const id of IDS) {
    await write(lab.vm, id, { offset: 0, length: (id === 'd1' ? 24 : 8) * MiB, pattern: 0x22 });
  }
  return { lab, target };
}

/** An INC of which all disks copy, so slowly that they would for half a minute. */
async function slowInc({ lab }: Lab, ...more: readonly string[]): Promise<RunningBackup> {
  const run = startBackup(lab, 'inc', '--speed-limit', '256K', ...more);
  await untilCopying(lab, run, 3);
  return run;
}

/** What d1 still has to copy is refused by its target: its file is longer already. Those of the others are not, by far. */
async function failTarget({ lab, target }: Lab, run: RunningBackup): Promise<void> {
  const id = await jobOf(lab, run, 'd1');
  await lab.vm.control.execute('block-job-set-speed', { device: id, speed: 4 * MiB });
  await untilJobs(lab.vm, run, (jobs) => jobs.some((job) => job.id === id && job['current-progress'] > 2 * BOUND));
  // A write that is under way would be cut short, which QEMU takes for a full file system.
  await lab.vm.control.execute('block-job-set-speed', { device: id, speed: 1 });
  await sleep(patient(1_000));
  await target.bound(BOUND);
  await lab.vm.control.execute('block-job-set-speed', { device: id, speed: 4 * MiB });
}

async function jobOf({ vm }: Scenario, run: RunningBackup, id: string): Promise<string> {
  const jobs = await untilJobs(vm, run, (all) => all.length === 3);
  const found = jobs.find((job) => job.id.includes(`-${id}`));
  if (!found) throw new Error(`no job of ${id}: ${jobs.map((job) => job.id).join()}`);
  return found.id;
}

const catalogOf = (lab: Scenario): Promise<string> => readFile(join(lab.target, 'catalog.json'), 'utf8');

async function expectWholeInc({ lab, target }: Lab, number: number): Promise<void> {
  await target.bound('unlimited');
  for (const id of IDS) await write(lab.vm, id, { offset: 30 * MiB, length: MiB, pattern: 0x33 });
  const whole = await lab.backup('inc', '--fleece', 'never');
  expect(whole.point).toMatchObject({ number });
  expect(whole.point.disks.map(({ level }) => level)).toEqual(['inc', 'inc', 'inc']);
  await lab.expectChainEqualsDisks();
  await lab.expectNothingLeft(2);
}

/** Exit code 3, without d1; the others are what they were at the instant. */
async function expectWithoutD1(lab: Scenario, run: RunningBackup, reason: string): Promise<void> {
  await untilConcluded(lab.vm);
  const ending = await run.ended;
  expect(ending).toMatchObject({ exitCode: 3 });
  expect(ending.stderr).toContain(`d1 is not in the backup: its copy failed: ${reason}`);
  const { point } = JSON.parse(ending.stdout) as Answer;
  expect(point).toMatchObject({ number: 1, disks: [{ disk: 'd2' }, { disk: 'd3' }] });
  expect(point.lacks).toMatchObject([{ disk: 'd1', kind: 'failed' }]);
  const output = join(lab.dir, 'without-d1');
  await expectCli(0, ['restore', '--target', lab.target, '--output', output]);
  for (const id of ['d2', 'd3']) {
    await flush(lab.vm, id);
    await compareImages(join(output, `${id}.qcow2`), lab.vm.disk(id).file ?? '');
  }
}

describe('a target that fails of one disk, with --skip-failed-disks', () => {
  it('without fleecing: all jobs end at once, no guest write fails, and the chain goes on', async () => {
    const all = await threeDisks();
    const { lab } = all;
    const [catalog, bitmaps] = [await catalogOf(lab), await lab.bitmaps()];
    const run = await slowInc(all, '--skip-failed-disks', '--fleece', 'never');
    await failTarget(all, run);
    await untilJobs(lab.vm, run, (jobs) => jobs.every(({ status }) => status === 'concluded'));
    // Beyond what a file of the target may hold: a job that went on would fail this.
    for (const id of IDS) await write(lab.vm, id, { offset: 40 * MiB, length: MiB, pattern: 0x44 });
    const ending = await run.ended;
    expect(ending).toMatchObject({ exitCode: 1 });
    expect(ending.stderr).toMatch(/the backup of d1 failed: File too large\n/);
    expect(ending.stderr).toMatch(/No point was made and no change is lost.*With --fleece always --skip-failed-disks/s);
    expect([await catalogOf(lab), await lab.bitmaps()]).toEqual([catalog, bitmaps]);
    await lab.expectNothingLeft(1);
    await expectWholeInc(all, 1);
  });

  it('with fleecing: the other disks are sealed', async () => {
    const all = await threeDisks();
    const { lab } = all;
    const run = await slowInc(all, '--skip-failed-disks', '--fleece', 'always');
    await failTarget(all, run);
    await untilJobs(lab.vm, run, (jobs) => jobs.some(({ status }) => status === 'concluded'));
    await all.target.bound('unlimited');
    await expectWithoutD1(lab, run, 'File too large');
    await expectWholeInc(all, 2);
  });
});

describe('the job of one disk that somebody else cancels', () => {
  it.each(['never', 'always'])('is left out with --skip-failed-disks, --fleece %s', async (fleece) => {
    const all = await threeDisks();
    const { lab } = all;
    const run = await slowInc(all, '--skip-failed-disks', '--fleece', fleece);
    await lab.vm.control.execute('block-job-cancel', { device: await jobOf(lab, run, 'd1') });
    await untilJobs(lab.vm, run, (jobs) => jobs.some(({ status }) => status === 'concluded'));
    await expectWithoutD1(lab, run, 'somebody else cancelled its job (Operation canceled)');
    await expectWholeInc(all, 2);
  });

  it('fails the run without it, which names that disk alone', async () => {
    const all = await threeDisks();
    const { lab } = all;
    const run = await slowInc(all, '--fleece', 'never');
    await lab.vm.control.execute('block-job-cancel', { device: await jobOf(lab, run, 'd1') });
    const ending = await run.ended;
    expect(ending).toMatchObject({ exitCode: 1 });
    expect(ending.stderr).toContain('the backup of d1 failed: somebody else cancelled its job (Operation canceled)\n');
    expect(ending.stderr).toContain('--skip-failed-disks seals a point');
    await lab.expectNothingLeft(1);
    await expectWholeInc(all, 1);
  });
});

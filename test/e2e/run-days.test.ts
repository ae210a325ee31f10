import { readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { MiB } from '../support/builders.js';
import { expectCli } from '../support/cli.js';
import { fleet, type Measured } from '../support/fleet.js';
import { startLibvirt } from '../support/lab/libvirt.js';
import { IS_LONG } from '../support/moments.js';
import { patient } from '../support/patience.js';
import { afterTest } from '../support/scenario.js';
import { monitoredVm, simulatedDomain, type SimulatedVm } from '../support/simulated-vms.js';

// Days of two runs each, under another clock, with prune and verify: what is kept restores, and nothing grows. The long form, by
// hand: eight VMs, four by monitor (two of them real guests) and four domains (one of them a real guest), for 60 days.
// QMPBACKUP_TEST_LONG=1 npx vitest run --project e2e test/e2e/run-days.test.ts

const DAYS = Number(process.env['QMPBACKUP_TEST_DAYS'] ?? (IS_LONG ? 60 : 6));
const RUNS_A_DAY = 2;
const RUNS = DAYS * RUNS_A_DAY;
const RUNS_A_WEEK = 7 * RUNS_A_DAY;
/** Local time is that of the tests, as the rules of prune have it. A Monday. */
const BEGIN_MS = new Date(2027, 0, 4, 1, 0, 0).getTime();
const HALF_DAY_MS = 12 * 3_600_000;
const KEEP = IS_LONG ? { last: 3, daily: 7, weekly: 4, monthly: 2 } : { last: 2, daily: 3, weekly: 2, monthly: 1 };

interface Listed {
  readonly targets: readonly {
    readonly points: readonly {
      readonly point: { readonly id: string; readonly createdAt: string };
      readonly notWhole: string | null;
    }[];
  }[];
}

interface Answer {
  readonly vms: readonly {
    readonly vm: string;
    readonly run: {
      readonly result: string;
      readonly steps: readonly { readonly verb: string; readonly why: string | null }[];
    };
  }[];
}

/** What a run took: with all its processes, and by the clock on the wall. */
interface Cost extends Omit<Measured, 'stdout'> {
  readonly seconds: number;
  /** Files in all targets, and the MiB that they take, after it. */
  readonly files: number;
  readonly diskMiB: number;
}

it(
  `${DAYS} days of ${IS_LONG ? 8 : 2} VMs: every point that is kept restores, the rules hold, and nothing grows`,
  { timeout: patient(IS_LONG ? 7_200_000 : 600_000) },
  async () => {
    const lab = await fleet([]);
    const vms = await simulatedVms(lab.dir);
    const names = vms.map(({ name }) => name);
    await lab.configure(`
defaults:
  target: ${lab.backups}/{vm}
  keep: ${JSON.stringify({ ...KEEP, consolidate: true })}
  verify: { read-data-within: 4d }
  max-age: 13h
vms:
${vms.map(({ name, entry }) => `  ${name}: ${entry}`).join('\n')}
run: { parallel: 2 }
`);
    const costs: Cost[] = [];
    const verified: number[] = [];
    for (let run = 0; run < RUNS; run += 1) {
      for (const vm of vms) await vm.change(run);
      const begun = performance.now();
      const { stdout, ...took } = await lab.at(BEGIN_MS + run * HALF_DAY_MS).measured('run', '--json');
      const seconds = (performance.now() - begun) / 1000;
      const answer = JSON.parse(stdout) as Answer;
      expect(
        answer.vms.map(({ vm, run: { result, steps } }) => ({
          vm,
          result,
          why: steps.flatMap(({ why }) => why ?? []),
        })),
      ).toEqual(expect.arrayContaining(names.map((vm) => ({ vm, result: 'ok', why: [] }))));
      verified.push(answer.vms.filter(({ run: { steps } }) => steps.some(({ verb }) => verb === 'verify')).length);
      const cost = { ...took, seconds, ...(await spaceOf(lab.backups)) };
      costs.push(cost);
      if (IS_LONG) process.stderr.write(`run ${run}: ${JSON.stringify(cost)}\n`);
    }
    // Once a day, of each VM.
    expect(verified).toEqual(Array.from({ length: RUNS }, (_, run) => (run % RUNS_A_DAY === 0 ? vms.length : 0)));

    const kept = keptRuns(RUNS);
    for (const vm of vms) {
      const target = join(lab.backups, vm.name);
      const { points } = (await expectCli(0, ['--json', 'list', '--target', target])).json<Listed>().targets[0]!;
      const runs = points.map(({ point }) => runAt(point.createdAt));
      expect(runs).toEqual(kept);
      expect(points.every(({ notWhole }) => notWhole === null)).toBe(true);
      for (const [index, { point }] of points.entries()) {
        const output = join(lab.dir, 'restored');
        await expectCli(0, ['restore', '--target', target, '--point', point.id, '--output', output, '--format', 'raw']);
        await vm.expectRestored(output, runs[index]!);
        await rm(output, { recursive: true });
      }
      // The first is a FULL, and of each other no more than what was written since the one before.
      const most = kept.map((run, index) =>
        Math.min(vm.bytesPerPoint, (run - (kept[index - 1] ?? -Infinity)) * vm.bytesPerRun),
      );
      const allowed = most.reduce((sum, bytes) => sum + bytes, 0) / MiB + kept.length;
      expect((await spaceOf(target)).diskMiB).toBeLessThan(allowed);
    }
    const status = await lab.at(BEGIN_MS + RUNS * HALF_DAY_MS).cli(0, 'status', '--plugin');
    expect(status.stdout).toMatch(/^QMPBACKUP OK/);
    await lab.at(BEGIN_MS + (RUNS + 2) * HALF_DAY_MS).cli(1, 'status');
    // What the first runs add is bounded, and then it stays.
    const settled = costs.slice(-4).map(({ files }) => files);
    expect(Math.max(...settled) - Math.min(...settled)).toBeLessThanOrEqual(4 * vms.length);
    if (IS_LONG) expectNoGrowth(costs);
  },
);

async function simulatedVms(dir: string): Promise<readonly SimulatedVm[]> {
  const byMonitor = [
    { name: 'web1', guest: IS_LONG },
    { name: 'web2', guest: IS_LONG },
    ...(IS_LONG ? ['web3', 'web4'].map((name) => ({ name, guest: false })) : []),
  ];
  const monitored = await Promise.all(byMonitor.map((each) => monitoredVm(dir, each.name, each)));
  if (!IS_LONG) return monitored;
  const libvirt = await startLibvirt();
  afterTest(() => libvirt.close());
  const names = ['db1', 'db2', 'db3', 'db4'];
  const domains = names.map((name, index) => simulatedDomain(libvirt, name, { guest: index === 0 }));
  return [...monitored, ...(await Promise.all(domains))];
}

async function spaceOf(folder: string): Promise<Pick<Cost, 'files' | 'diskMiB'>> {
  const files = await readdir(folder, { recursive: true });
  const sizes = await Promise.all(files.map((file) => stat(join(folder, file))));
  return { files: files.length, diskMiB: sizes.reduce((sum, { blocks }) => sum + blocks * 512, 0) / MiB };
}

function runAt(createdAt: string): number {
  return Math.round((Date.parse(createdAt) - BEGIN_MS) / HALF_DAY_MS);
}

/** By the rules of `KEEP`, told again by hand: numbers of the runs, of which two are of a day. */
function keptRuns(count: number): readonly number[] {
  const all = Array.from({ length: count }, (_, run) => run);
  const newestOf = (bucket: (run: number) => number, most: number): readonly number[] => {
    const newest = new Map(all.map((run) => [bucket(run), run]));
    return [...newest.values()].slice(-most);
  };
  const day = (run: number): number => Math.floor(run / RUNS_A_DAY);
  const week = (run: number): number => Math.floor(run / RUNS_A_WEEK);
  const month = (run: number): number => new Date(BEGIN_MS + run * HALF_DAY_MS).getMonth();
  const kept = new Set([
    ...all.slice(-KEEP.last),
    ...newestOf(day, KEEP.daily),
    ...newestOf(week, KEEP.weekly),
    ...newestOf(month, KEEP.monthly),
  ]);
  return [...kept].toSorted((a, b) => a - b);
}

/** Between two weeks, the first when the rules have just been filled, the last at the end. */
function expectNoGrowth(costs: readonly Cost[]): void {
  const filled = KEEP.weekly * RUNS_A_WEEK;
  const weeks = { early: costs.slice(filled, filled + RUNS_A_WEEK), late: costs.slice(-RUNS_A_WEEK) };
  const median = (of: 'early' | 'late', what: keyof Cost): number =>
    weeks[of].map((cost) => cost[what]).toSorted((a, b) => a - b)[RUNS_A_WEEK / 2]!;
  for (const [what, most] of [
    ...[['peakMiB', 1.1] as const, ['cpuSeconds', 1.3] as const],
    // Of a machine that others use, too.
    ...[['seconds', 3] as const],
    // How many points the rules keep changes with the month.
    ...[['files', 1.3] as const, ['diskMiB', 1.3] as const],
  ] as const) {
    const [early, late] = [median('early', what), median('late', what)];
    process.stderr.write(`${what}: ${early.toFixed(1)} in week ${KEEP.weekly + 1}, ${late.toFixed(1)} in the last\n`);
    expect(late, what).toBeLessThan(early * most);
  }
}

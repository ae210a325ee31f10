import { readFile, readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { MiB } from '../support/builders.js';
import { expectCli } from '../support/cli.js';
import { fleet, vmsSection } from '../support/fleet.js';
import { write } from '../support/lab/guest-writes.js';
import { patient } from '../support/patience.js';

// Days of two runs each, under another clock, with prune and verify: what is kept restores, and nothing grows. The long form, by hand:
// QMPBACKUP_TEST_LONG=1 npx vitest run --project e2e test/e2e/run-days.test.ts

const isLong = process.env['QMPBACKUP_TEST_LONG'] === '1';
const [DAYS, VMS] = isLong ? [60, 8] : [6, 2];
const RUNS_A_DAY = 2;
const SIZE_MIB = 64;
/** Local time is that of the tests, as the rules of prune have it. */
const BEGIN_MS = new Date(2027, 0, 4, 1, 0, 0).getTime();
const HALF_DAY_MS = 12 * 3_600_000;
const KEEP = { last: 2, daily: 3, weekly: 2 };

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
      readonly steps: readonly { readonly verb: string; readonly durationMs: number }[];
    };
  }[];
}

it(
  `${DAYS} days of ${VMS} VMs: every point that is kept restores, the rules hold, and nothing grows`,
  { timeout: patient(isLong ? 7_200_000 : 600_000) },
  async () => {
    const names = Array.from({ length: VMS }, (_, index) => `vm${index}`);
    const lab = await fleet(names);
    await lab.configure(`
defaults:
  target: ${lab.backups}/{vm}
  keep: { last: ${KEEP.last}, daily: ${KEEP.daily}, weekly: ${KEEP.weekly}, consolidate: true }
  verify: { read-data-within: 4d }
  max-age: 13h
${vmsSection(lab)}
run: { parallel: 2 }
`);
    // The bytes of each disk, a MiB after the other, and what they were at each run.
    const disks = new Map(names.map((name) => [name, Array.from({ length: SIZE_MIB }, () => 0)]));
    const states = new Map<string, readonly number[]>();
    const runMs: number[] = [];
    const files: number[] = [];
    const verified: number[] = [];
    for (let run = 0; run < DAYS * RUNS_A_DAY; run += 1) {
      for (const [name, bytes] of disks) {
        const at = (run * 7 + names.indexOf(name)) % SIZE_MIB;
        bytes[at] = 1 + (run % 250);
        await write(lab.vms.get(name)!, 'd1', { offset: at * MiB, length: MiB, pattern: bytes[at] });
        states.set(`${name} ${run}`, [...bytes]);
      }
      const begun = performance.now();
      const answer = (await lab.at(BEGIN_MS + run * HALF_DAY_MS).cli(0, 'run', '--json')).json<Answer>();
      runMs.push(performance.now() - begun);
      expect(answer.vms.map(({ run: { result } }) => result)).toEqual(names.map(() => 'ok'));
      verified.push(answer.vms.filter(({ run: { steps } }) => steps.some(({ verb }) => verb === 'verify')).length);
      files.push((await readdir(lab.backups, { recursive: true })).length);
    }
    // Once a day, of each VM.
    expect(verified).toEqual(Array.from({ length: DAYS * RUNS_A_DAY }, (_, run) => (run % RUNS_A_DAY === 0 ? VMS : 0)));

    for (const name of names) {
      const target = join(lab.backups, name);
      const { points } = (await expectCli(0, ['--json', 'list', '--target', target])).json<Listed>().targets[0]!;
      const runs = points.map(({ point }) => Math.round((Date.parse(point.createdAt) - BEGIN_MS) / HALF_DAY_MS));
      expect(runs).toEqual(keptRuns(DAYS * RUNS_A_DAY));
      expect(points.every(({ notWhole }) => notWhole === null)).toBe(true);
      for (const [index, { point }] of points.entries()) {
        const output = join(lab.dir, 'restored');
        await expectCli(0, ['restore', '--target', target, '--point', point.id, '--output', output, '--format', 'raw']);
        const image = await readFile(join(output, 'd1.raw'));
        const found = Array.from({ length: SIZE_MIB }, (_, at) => byteOf(image.subarray(at * MiB, (at + 1) * MiB)));
        expect(found).toEqual(states.get(`${name} ${runs[index]}`));
        await rm(output, { recursive: true });
      }
      // A FULL, and of each other point no more than a MiB and what an image takes at least.
      const sizes = await Promise.all(
        (await readdir(target, { recursive: true })).map((file) => stat(join(target, file))),
      );
      const bytes = sizes.reduce((sum, { blocks }) => sum + blocks * 512, 0);
      expect(bytes).toBeLessThan((SIZE_MIB + 1 + points.length * 20) * MiB);
    }
    const status = await lab.at(BEGIN_MS + DAYS * RUNS_A_DAY * HALF_DAY_MS).cli(0, 'status', '--plugin');
    expect(status.stdout).toMatch(/^QMPBACKUP OK/);
    await lab.at(BEGIN_MS + (DAYS * RUNS_A_DAY + 2) * HALF_DAY_MS).cli(1, 'status');
    // What the first runs add is bounded, and then it stays.
    const settled = files.slice(-4);
    expect(Math.max(...settled) - Math.min(...settled)).toBeLessThanOrEqual(4 * VMS);
    if (isLong)
      process.stderr.write(`runs took ${runMs.map((ms) => Math.round(ms)).join(' ')} ms; files ${files.join(' ')}\n`);
  },
);

/** By the rules of `KEEP`, told again by hand: numbers of the runs, of which two are of a day. */
function keptRuns(count: number): readonly number[] {
  const all = Array.from({ length: count }, (_, run) => run);
  const newestOf = (bucket: (run: number) => number, most: number): readonly number[] => {
    const newest = new Map(all.map((run) => [bucket(run), run]));
    return [...newest.values()].slice(-most);
  };
  const day = (run: number): number => Math.floor(run / RUNS_A_DAY);
  // It begins on a Monday.
  const week = (run: number): number => Math.floor(day(run) / 7);
  const kept = new Set([...all.slice(-KEEP.last), ...newestOf(day, KEEP.daily), ...newestOf(week, KEEP.weekly)]);
  return [...kept].toSorted((a, b) => a - b);
}

/** The one byte of which all are; -1 where they are not. */
function byteOf(part: Buffer): number {
  return part.equals(Buffer.alloc(part.length, part[0])) ? (part[0] ?? -1) : -1;
}

import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { projectRoot } from '../test/support/lab/project-root.js';
import type { Library } from '../test/support/retention-soak.js';
import type { Pair, SoakSample } from '../test/support/soak.js';

/**
 * `npm run soak -- --runs 500 [--qemu 10]`: whether anything grows from run to run. Prints a line every 50 runs, with the
 * medians of its last 20, and fails on growth, on a name given twice, and when the chain is not the disk. How long a run
 * takes is compared in the end, run by run in turn with those of a VM whose chain is short.
 *
 * `npm run soak -- --iothreads --runs 2000`: fleeced runs, and a third as many that are not, on VMs whose disks are in
 * iothreads and whose guest writes; fails when QEMU dies or hangs, and when a chain is not the disk. `--shape virtio-scsi` (`throttled`,
 * `one iothread`, `an iothread each`, and on QEMU 10 `mapped queues`) is one kind of such VMs; all in turn unless told.
 *
 * `npm run soak -- --retention --runs 720`: a backup an hour (told, not waited for), and `prune --keep-hourly 24 --keep-daily 7
 * --consolidate` after each; fails where the time of a run (in turn with those of another VM around its run 50), the open files, or
 * the files and the catalog for each point that is kept (at run 50 these are fewer: there are no seven days yet) are in the end more
 * than 1.2 times those of run 50, when a file is not whole, and when the newest point is not the disk.
 */
const { values: flags } = parseArgs({
  options: {
    runs: { type: 'string', default: '500' },
    qemu: { type: 'string', default: '7' },
    iothreads: { type: 'boolean', default: false },
    retention: { type: 'boolean', default: false },
    shape: { type: 'string' },
  },
});
const LINE_EVERY = 50;
const WINDOW = 20;
const PAIRS = 20;
const FLEECED = ['--fleece', 'always'];
const PLAIN = ['--fleece', 'never'];

// Chosen before the lab is loaded, which puts it into PATH.
if (flags.qemu === '10') process.env['QMPBACKUP_TEST_QEMU'] = '10';
const { makeLabDir } = await import('../test/support/lab/programs.js');
const { growth, inPairs, median, soak } = await import('../test/support/soak.js');

const dir = await makeLabDir();
const line = (cells: readonly (string | number)[]): void => {
  process.stdout.write(`${cells.map((cell) => String(cell).padStart(15)).join('')}\n`);
};
if (flags.iothreads) await ofIothreads();
else if (flags.retention) await ofRetention();
else await ofGrowth();

/** In VMs that live for a few dozen runs: a new one for each shape in turn. */
async function ofIothreads(): Promise<void> {
  const { IOTHREAD_SHAPES, soakIothreads } = await import('../test/support/iothread-soak.js');
  const BLOCK = 30;
  const shapes = IOTHREAD_SHAPES.filter((shape) => flags.shape === undefined || shape === flags.shape);
  if (shapes.length === 0) throw new Error(`--shape is one of ${IOTHREAD_SHAPES.join(', ')}`);
  const done = { fleeced: 0, plain: 0 };
  const runs = Number(flags.runs);
  try {
    for (let block = 0; done.fleeced < runs; block += 1) {
      const shape = shapes[block % shapes.length] ?? 'throttled';
      const count = Math.min(BLOCK, runs - done.fleeced);
      const fleeced = await soakIothreads({ dir: join(dir, `f${block}`), shape, runs: count, how: FLEECED });
      const plain = await soakIothreads({ dir: join(dir, `p${block}`), shape, runs: count / 3, how: PLAIN });
      done.fleeced += count;
      done.plain += Math.floor(count / 3);
      const writes = [...fleeced.writes, ...plain.writes].reduce((sum, each) => sum + each, 0);
      process.stdout.write(
        `QEMU ${fleeced.qemuVersion}, ${shape}: ${writes} writes of the guest; in all ` +
          `${done.fleeced} fleeced runs and ${done.plain} that were not, no QEMU dead or hung, each chain equals its disks\n`,
      );
    }
  } catch (error) {
    process.stderr.write(`after ${done.fleeced} fleeced runs and ${done.plain} others: ${(error as Error).message}\n`);
    process.exitCode = 1;
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

async function ofGrowth(): Promise<void> {
  const samples: SoakSample[] = [];
  try {
    const result = await soak({
      dir,
      runs: Number(flags.runs),
      pairs: PAIRS,
      onStart: (version) => {
        if (!version.startsWith(`${flags.qemu}.`)) throw new Error(`this is QEMU ${version}, not ${flags.qemu}`);
        process.stdout.write(`QEMU ${version}\n`);
        line(['run', 'open files', 'RSS KiB', 'transaction ms', 'run ms', 'files']);
      },
      onRun: (sample) => {
        samples.push(sample);
        const { run, files } = sample;
        if (run % LINE_EVERY !== 0 && run !== WINDOW) return;
        const last = samples.slice(-WINDOW);
        const of = (key: keyof SoakSample): number => median(last.map((each) => each[key]));
        line([run, of('openFiles'), of('rssKiB'), of('transactionMs').toFixed(1), of('runMs').toFixed(0), files]);
      },
    });
    beside(result.pairs);
    const problems = growth(result);
    for (const problem of problems) process.stderr.write(`grew: ${problem}\n`);
    if (problems.length === 0) process.stdout.write('nothing grew, and the chain equals the disks\n');
    process.exitCode = problems.length === 0 ? 0 : 1;
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

async function ofRetention(): Promise<void> {
  const { RETENTION_GROWTH, retentionGrowth, soakRetention } = await import('../test/support/retention-soak.js');
  const library = (await import(join(projectRoot(), 'dist', 'index.js'))) as Library;
  const [EARLY, DAY] = [50, 24];
  if (Number(flags.runs) < EARLY + DAY) throw new Error(`--runs is at least ${EARLY + DAY}`);
  try {
    line(['run', 'run ms', 'points', 'files', 'open files', 'catalog bytes']);
    const soaked = await soakRetention({
      ...{ library, dir, runs: Number(flags.runs), hours: 1, rules: { keepHourly: 24, keepDaily: 7 } },
      // A day around it.
      pairs: { count: DAY, from: EARLY - DAY / 2 },
      onRun: ({ run, runMs, points, files, openFiles, catalog }) => {
        if (run % LINE_EVERY === 0) line([run, runMs.toFixed(0), points, files, openFiles, catalog]);
      },
    });
    for (const { what, before, after, isBound } of retentionGrowth(soaked, { early: EARLY, day: DAY })) {
      const grew = isBound && after > before * RETENTION_GROWTH;
      const words = `${what}: ${before.toFixed(1)} at run ${EARLY}, ${after.toFixed(1)} at run ${soaked.samples.length}`;
      process.stdout.write(`${words}: ${(after / before).toFixed(2)} times${grew ? ', which is too much' : ''}\n`);
      if (grew) process.exitCode = 1;
    }
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

function beside(pairs: readonly Pair[]): void {
  for (const [what, key] of [
    ['transaction', 'transactionMs'],
    ['run', 'runMs'],
  ] as const) {
    const [short, long] = inPairs(pairs, key);
    process.stdout.write(
      `${what}: ${long.toFixed(1)} ms at run ${pairs[0]!.long.run}, ${short.toFixed(1)} ms at run ` +
        `${pairs[0]!.short.run} of another VM (${pairs.length} of each in turn): ${(long / short).toFixed(2)} times\n`,
    );
  }
}

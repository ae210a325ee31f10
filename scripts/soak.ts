import { rm } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import type { Pair, SoakSample } from '../test/support/soak.js';

/**
 * `npm run soak -- --runs 500 [--qemu 10]`: whether anything grows from run to run. Prints a line every 50 runs, with the
 * medians of its last 20, and fails on growth, on a name given twice, and when the chain is not the disk. How long a run
 * takes is compared in the end, run by run in turn with those of a VM whose chain is short.
 */
const { values: flags } = parseArgs({
  options: { runs: { type: 'string', default: '500' }, qemu: { type: 'string', default: '7' } },
});
const LINE_EVERY = 50;
const WINDOW = 20;
const PAIRS = 20;

// Chosen before the lab is loaded, which puts it into PATH.
if (flags.qemu === '10') process.env['QMPBACKUP_TEST_QEMU'] = '10';
const { makeLabDir } = await import('../test/support/lab/programs.js');
const { growth, inPairs, median, soak } = await import('../test/support/soak.js');

const dir = await makeLabDir();
const samples: SoakSample[] = [];
const line = (cells: readonly (string | number)[]): void => {
  process.stdout.write(`${cells.map((cell) => String(cell).padStart(15)).join('')}\n`);
};

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

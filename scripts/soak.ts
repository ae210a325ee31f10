import { rm } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import type { SoakSample } from '../test/support/soak.js';

/**
 * `npm run soak -- --runs 500 [--qemu 10]`: whether anything grows from run to run. Prints a line every 50 runs, with the
 * medians of its last 20, and fails on growth, on a name given twice, and when the chain is not the disk. Wants an idle
 * machine.
 */
const { values: flags } = parseArgs({
  options: { runs: { type: 'string', default: '500' }, qemu: { type: 'string', default: '7' } },
});
const LINE_EVERY = 50;
const WINDOW = 20;

// Chosen before the lab is loaded, which puts it into PATH.
if (flags.qemu === '10') process.env['QMPBACKUP_TEST_QEMU'] = '10';
const { makeLabDir } = await import('../test/support/lab/programs.js');
const { growth, median, soak } = await import('../test/support/soak.js');

const dir = await makeLabDir();
const samples: SoakSample[] = [];
const line = (cells: readonly (string | number)[]): void => {
  process.stdout.write(`${cells.map((cell) => String(cell).padStart(15)).join('')}\n`);
};

try {
  await soak({
    dir,
    runs: Number(flags.runs),
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
  const problems = growth(samples, { timed: true });
  for (const problem of problems) process.stderr.write(`grew: ${problem}\n`);
  if (problems.length === 0) process.stdout.write('nothing grew, and the chain equals the disks\n');
  process.exitCode = problems.length === 0 ? 0 : 1;
} finally {
  await rm(dir, { recursive: true, force: true });
}

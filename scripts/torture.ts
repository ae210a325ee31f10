import { type ChildProcess, fork } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { execa } from 'execa';
import { startLibvirt } from '../test/support/lab/libvirt.js';
import { projectRoot } from '../test/support/lab/programs.js';
import { patient } from '../test/support/patience.js';
import { cellInWords, runKillMatrix } from '../test/support/torture/kill-matrix.js';
import { KNOWN_BUGS, KNOWN_BUGS_OF_DOMAINS, makeMutant } from '../test/support/torture/mutant.js';
import { type Outcome, torture, tortureDomain, type TortureOptions } from '../test/support/torture/torture.js';

/**
 * `npm run torture -- --runs 1000 --seed 1`: random sequences of writes, backups and faults against a real QEMU; every
 * point is compared bit for bit with what the disks held. Ends with 1 and says how to repeat it where one fails.
 */
const { values: flags } = parseArgs({
  options: {
    runs: { type: 'string', default: '50' },
    seed: { type: 'string' },
    workers: { type: 'string', default: '2' },
    /** 10: the one of scripts/install-qemu10; else that of the host. */
    qemu: { type: 'string', default: '7' },
    /** Another bin/qmpbackup.js than this build's. */
    program: { type: 'string' },
    /** Puts a known bug in, by a part of its name: the torture must then fail. */
    bug: { type: 'string' },
    /** Looks for a shorter sequence for so many seconds. */
    shrink: { type: 'string', default: '0' },
    'keep-going': { type: 'boolean', default: false },
    /** 1000 sequences, the whole kill matrix and 500 runs of the soak. */
    full: { type: 'boolean', default: false },
    /** The kill matrix instead: SIGKILL of the tool at every message, with a real guest. */
    kills: { type: 'boolean', default: false },
    /** K/N: every N-th cell of the matrix, from the K-th on, in an order that the seed draws. */
    part: { type: 'string', default: '1/1' },
    /** Values for --fleece in the matrix, with a comma between them. */
    fleece: { type: 'string' },
    /** Milliseconds that a guest may be frozen after a kill. */
    'thaw-limit': { type: 'string', default: String(patient(2_000)) },
    /** Sequences of a libvirt domain instead: pulls, pushes, backups while it is off. */
    domain: { type: 'boolean', default: false },
    worker: { type: 'boolean', default: false },
  },
});
const PROGRESS_EVERY = 25;

const options: TortureOptions = {
  program: flags.program ?? join(projectRoot(), 'bin', 'qmpbackup.js'),
  shrinkMs: Number(flags.shrink) * 1000,
};

if (flags.worker) await work();
else if (flags.qemu === '10' && process.env['QMPBACKUP_TEST_QEMU'] !== '10') process.exitCode = await onQemu10();
else if (flags.full) process.exitCode = await full();
else if (flags.kills && Number(flags.workers) > 1) process.exitCode = await killMatrixInParts();
else if (flags.kills) await killMatrix();
else await lead();

/** The lab looks for its QEMU when it is loaded. */
async function onQemu10(): Promise<number> {
  return again(process.argv[1]!, process.argv.slice(2), { QMPBACKUP_TEST_QEMU: '10' });
}

/** All that is asked of a version of QEMU before it is called supported; hours, on an idle machine. */
async function full(): Promise<number> {
  const qemu = ['--qemu', flags.qemu];
  const steps = [
    [process.argv[1]!, '--runs', '1000', ...qemu, ...(flags.seed === undefined ? [] : ['--seed', flags.seed])],
    [process.argv[1]!, '--kills', '--workers', '1', '--fleece', 'never,always', ...qemu],
    [join(dirname(process.argv[1]!), 'soak.js'), '--runs', '500', ...qemu],
  ] as const;
  let failed = 0;
  for (const [script, ...args] of steps) {
    process.stdout.write(`\n== ${basename(script)} ${args.join(' ')}\n`);
    if ((await again(script, args)) !== 0) failed += 1;
  }
  return failed === 0 ? 0 : 1;
}

/** One guest for each worker. How many messages a run has varies a little: between two parts a cell may be left out. */
async function killMatrixInParts(): Promise<number> {
  const workers = Number(flags.workers);
  const [part = 1, parts = 1] = flags.part.split('/').map(Number);
  const codes = await Promise.all(
    Array.from({ length: workers }, (_, number) => {
      const mine = `${part + parts * number}/${parts * workers}`;
      return again(process.argv[1]!, [...process.argv.slice(2), '--workers', '1', '--part', mine]);
    }),
  );
  return Math.max(...codes);
}

async function again(
  script: string,
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<number> {
  const result = await execa(process.execPath, [script, ...args], { reject: false, stdio: 'inherit', env });
  return result.exitCode ?? 1;
}

/** One sequence after the other, as they are handed out. Runs of one process are one VM to the tool's locks. */
async function work(): Promise<void> {
  const lab = flags.domain ? await startLibvirt() : undefined;
  process.once('disconnect', () => void lab?.close());
  process.on('message', ({ seed }: { seed: number }) => {
    const outcome = lab ? tortureDomain(seed, { ...options, lab }) : torture(seed, options);
    outcome.then(
      (outcome) => process.send?.(outcome),
      (error: unknown) => process.send?.({ ok: false, seed, words: String(error) } satisfies Outcome),
    );
  });
}

async function lead(): Promise<void> {
  const runs = Number(flags.runs);
  const first = flags.seed === undefined ? Math.floor(Math.random() * 1e9) : Number(flags.seed);
  // Memory does not wait for fsync; what a kill leaves in a file is the same.
  const base = process.env['TMPDIR'] ?? (existsSync('/dev/shm') ? '/dev/shm' : tmpdir());
  const dir = await mkdtemp(join(base, 'torture-'));
  const program = flags.bug === undefined ? undefined : await mutant(flags.bug, join(dir, 'mutant'));
  const begun = performance.now();
  const seconds = (): number => (performance.now() - begun) / 1000;
  const totals = { done: 0, runs: 0, upkeeps: 0, faults: 0, compared: 0, ms: 0 };
  const failures: Outcome[] = [];
  let next = 0;
  let stopped: NodeJS.Signals | undefined;
  const workers: ChildProcess[] = [];

  const onOutcome = (outcome: Outcome): void => {
    totals.done += 1;
    if (outcome.ok) {
      const { report } = outcome;
      totals.runs += report.runs;
      totals.upkeeps += report.upkeeps;
      totals.faults += report.faults;
      totals.compared += report.compared;
      totals.ms += report.ms;
    } else {
      failures.push(outcome);
      const kind = `${flags.domain ? ' --domain' : ''}${flags.qemu === '10' ? ' --qemu 10' : ''}`;
      const repeat = `npm run torture -- --runs 1 --seed ${outcome.seed}${kind}`;
      process.stdout.write(`\nFAILED: seed ${outcome.seed}\n${outcome.words}\nagain: ${repeat}\n\n`);
    }
    if (totals.done % PROGRESS_EVERY === 0) progress();
  };
  const progress = (): void => {
    const mean = totals.ms / Math.max(1, totals.done - failures.length) / 1000;
    process.stdout.write(
      `${totals.done} of ${runs} sequences from seed ${first} in ${seconds().toFixed(0)} s (${mean.toFixed(1)} s each): ` +
        `${totals.runs} backups, ${totals.upkeeps} prunes, merges, pins and looks, ${totals.faults} faults, ${totals.compared} images compared, ${failures.length} failed\n`,
    );
  };
  const drive = (worker: ChildProcess): Promise<void> =>
    new Promise((resolve, reject) => {
      let current: number | undefined;
      const handOut = (): void => {
        const enough = next >= runs || stopped !== undefined || (failures.length > 0 && !flags['keep-going']);
        if (enough) return void worker.disconnect();
        current = first + next;
        next += 1;
        worker.send({ seed: current });
      };
      worker.on('message', (outcome: Outcome) => {
        onOutcome(outcome);
        handOut();
      });
      worker.once('error', reject);
      worker.once('exit', (code, signal) => {
        if (code === 0 || stopped !== undefined) resolve();
        else reject(new Error(`a worker ended with ${signal ?? code} at seed ${current}`));
      });
      handOut();
    });

  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.on(signal, () => {
      stopped = signal;
      // Its QEMU goes with it, and the tool without its monitor.
      for (const worker of workers) worker.kill('SIGKILL');
    });
  }
  for (let number = 0; number < Math.min(runs, Number(flags.workers)); number += 1) {
    // In a session of their own: a Ctrl-C comes to us alone.
    workers.push(
      fork(
        process.argv[1]!,
        ['--worker', ...process.argv.slice(2), ...(program === undefined ? [] : ['--program', program])],
        {
          detached: true,
          env: { ...process.env, TMPDIR: dir },
          stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
        },
      ),
    );
  }
  try {
    await Promise.all(workers.map(drive));
  } finally {
    for (const worker of workers) worker.kill('SIGKILL');
    if (failures.length === 0) await rm(dir, { recursive: true, force: true, maxRetries: 5 });
    else process.stdout.write(`The folders of what failed are in ${dir}\n`);
  }
  if (totals.done % PROGRESS_EVERY !== 0) progress();
  process.exitCode = stopped !== undefined ? 130 : failures.length > 0 ? 1 : 0;
}

async function mutant(name: string, dir: string): Promise<string> {
  const bugs = flags.domain ? KNOWN_BUGS_OF_DOMAINS : KNOWN_BUGS;
  const bug = bugs.find((each) => each.name.includes(name));
  if (!bug) throw new Error(`no known bug is called ${name}: ${bugs.map((each) => each.name).join(', ')}`);
  return makeMutant(bug, dir);
}

async function killMatrix(): Promise<void> {
  const [part = 1, parts = 1] = flags.part.split('/').map(Number);
  const seed = Number(flags.seed ?? 1);
  const base = process.env['TMPDIR'] ?? (existsSync('/dev/shm') ? '/dev/shm' : tmpdir());
  const dir = await mkdtemp(join(base, 'kills-'));
  process.env['TMPDIR'] = dir;
  const begun = performance.now();
  let [slowest, killed] = [0, 0];
  try {
    await runKillMatrix({
      ...{ dir, program: options.program, part, parts, seed, thawLimitMs: Number(flags['thaw-limit']) },
      fleece: flags.fleece?.split(',') ?? [undefined],
      onCell: (cell, report, done, of) => {
        slowest = Math.max(slowest, report.freeAfterMs);
        if (report.killed) killed += 1;
        if (done % PROGRESS_EVERY !== 0 && done !== of) return;
        const seconds = ((performance.now() - begun) / 1000).toFixed(0);
        const free = `the guest was free at most ${slowest.toFixed(0)} ms after a kill`;
        process.stdout.write(
          `${done} of ${of} cells in ${seconds} s, ${killed} killed, ${free}; ${cellInWords(cell)}\n`,
        );
      },
    });
    await rm(dir, { recursive: true, force: true, maxRetries: 5 });
  } catch (error) {
    const fleece = flags.fleece === undefined ? '' : ` --fleece ${flags.fleece}`;
    const repeat = `npm run torture -- --kills --workers 1 --part ${flags.part} --seed ${seed}${fleece} --qemu ${flags.qemu}`;
    process.stdout.write(`FAILED: ${(error as Error).message}\nkept: ${dir}\nagain: ${repeat}\n`);
    process.exitCode = 1;
  }
}

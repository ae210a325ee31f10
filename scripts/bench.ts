import { existsSync } from 'node:fs';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { ExecaError } from 'execa';
import { unwinding } from '../src/flow/unwind.js';
import { projectRoot } from '../test/support/lab/project-root.js';
import { ALL_CASES } from './bench/all-cases.js';
import type { Case, Program, Where } from './bench/case.js';
import { type Chosen, chosenCases } from './bench/choose.js';
import { machineHere, machineInWords } from './bench/machine.js';
import { NotHere, openPlace, type Place } from './bench/place.js';
import { PEERS } from './bench/programs.js';
import { type Result, resultOf } from './bench/results.js';
import { takeTurns } from './bench/rounds.js';
import { exitCodeOf, type NoResult, type Outcome, tableOf } from './bench/table.js';

/**
 * `npm run bench`: what this build takes, beside what QEMU and its tools take for the same, all in turn in one run. Ends
 * with 1 where a goal is missed. What it measures and how to read it: docs/performance.md.
 */
const { values: flags } = parseArgs({
  options: {
    only: { type: 'string' },
    where: { type: 'string' },
    rounds: { type: 'string', default: '5' },
    program: { type: 'string' },
    output: { type: 'string' },
    list: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

const HELP = `npm run bench -- [options]
  --only NAME,...        these cases, the long ones too; --list names all
  --where memory|disk    there alone; both unless told, on disk fewer cases
  --rounds N             5 unless told
  --program PATH         another bin/qmpbackup.js, measured in the same rounds
  --output FILE          the figures as JSON, with every sample
${Object.values(PEERS).join(' and ')} are commands of other tools for a VM and for a domain, set beside it:
{level} becomes full or inc, {target} a folder; {socket} the monitor of the VM, {connect} and {domain} what virsh is given.
`;

const USAGE = 2;
/** Characters of what a program says. */
const LONGEST = 2_000;

if (flags.help) process.stdout.write(HELP);
else if (flags.list) for (const { name, idea } of ALL_CASES) process.stdout.write(`${name.padEnd(26)}${idea}\n`);
else await bench();

async function bench(): Promise<void> {
  const chosen = chosenCases(ALL_CASES, flags);
  const wrong = 'wrong' in chosen ? chosen.wrong : missingProgram(flags.program);
  if ('wrong' in chosen || wrong !== undefined) {
    process.stderr.write(`${wrong}\n`);
    process.exitCode = USAGE;
    return;
  }
  const programs: readonly Program[] = [
    { role: 'this', path: join(projectRoot(), 'bin', 'qmpbackup.js') },
    ...(flags.program === undefined ? [] : [{ role: 'other' as const, path: resolve(flags.program) }]),
  ];
  const machine = await machineHere(new Date());
  const { places, ...outcome } = await measureAll(chosen, programs);
  const head = [machineInWords(machine), ...places, `medians; rounds: ${chosen.rounds}`];
  if (flags.program !== undefined) head.push(`the other build: ${flags.program}`);
  process.stdout.write(`${head.join('\n')}\n\n${tableOf(outcome)}\n`);
  if (flags.output !== undefined) {
    const document = { schema: 1, machine, places, rounds: chosen.rounds, program: flags.program ?? null, ...outcome };
    await writeFile(flags.output, `${JSON.stringify(document, null, 2)}\n`);
  }
  process.exitCode = exitCodeOf(outcome);
}

/** A case that fails does not hold up the others. */
async function measureAll(
  chosen: Chosen,
  programs: readonly Program[],
): Promise<Outcome & { readonly places: readonly string[] }> {
  const results: Result[] = [];
  const leftOut: NoResult[] = peersNotSet();
  const failed: NoResult[] = [];
  const places: string[] = [];
  for (const where of ['memory', 'disk'] as const) {
    const cases = chosen.cases.filter((each) => each.where === where).map((each) => each.case);
    if (cases.length === 0) continue;
    await at(where, async (place) => {
      places.push(`${where}: ${place.what}`);
      for (const each of cases) {
        const what = `${each.name} (${where})`;
        process.stderr.write(`${new Date().toISOString().slice(11, 19)} ${what}\n`);
        try {
          results.push(await measured(each, place, { rounds: chosen.rounds, programs }));
        } catch (error) {
          const why = wordsOf(error);
          (error instanceof NotHere ? leftOut : failed).push({ what, why });
          process.stderr.write(`  not measured: ${why}\n`);
        }
      }
    });
  }
  return { results, leftOut, failed, places };
}

/** Not all that a program has printed: that may be a disk. */
function wordsOf(error: unknown): string {
  if (error instanceof ExecaError)
    return `${error.shortMessage}\n${String(error.stderr ?? '').slice(0, LONGEST)}`.trim();
  return error instanceof Error ? error.message : String(error);
}

function peersNotSet(): NoResult[] {
  return Object.entries(PEERS)
    .filter(([, variable]) => !process.env[variable])
    .map(([of, variable]) => ({ what: `another tool beside it (${of})`, why: `${variable} is not set` }));
}

function missingProgram(path: string | undefined): string | undefined {
  if (path === undefined || existsSync(path)) return undefined;
  return `--program: ${path} is not there; it is the bin/qmpbackup.js of a commit that was built`;
}

/** All that the lab makes is there, too: it goes by TMPDIR. Gone afterwards, and when somebody has had enough. */
async function at(where: Where, use: (place: Place) => Promise<void>): Promise<void> {
  const before = process.env['TMPDIR'];
  const place = await openPlace(where);
  const ended = (signal: NodeJS.Signals): void => {
    place.remove();
    process.kill(process.pid, signal);
  };
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, ended);
  process.env['TMPDIR'] = place.dir;
  try {
    await use(place);
  } finally {
    if (before === undefined) delete process.env['TMPDIR'];
    else process.env['TMPDIR'] = before;
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.off(signal, ended);
    place.remove();
  }
}

async function measured(
  each: Case,
  place: Place,
  { rounds, programs }: { readonly rounds: number; readonly programs: readonly Program[] },
): Promise<Result> {
  const turns = rounds * (each.turns ?? 1);
  await place.makeRoom(each.bytes({ programs: programs.length, turns }));
  const dir = join(place.dir, each.name);
  await mkdir(dir);
  try {
    const sampled = await unwinding(async (unwind) => {
      const measures = await each.prepare({ dir, programs }, unwind);
      return takeTurns(measures, { rounds: turns, settle: place.settle });
    });
    return resultOf(each, place.where, sampled);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

/** Whether pages are made about as quickly as what they show is read: those of 300 VMs with 720 points each. */
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { makeUpTarget } from '../../../test/support/made-up-targets.js';
import { against, beside, type Bench, type Case, MiB, ofEachProgram, type Program, type Take, timed } from '../case.js';
import { peakMemory } from '../peak-memory.js';
import { runProgram } from '../programs.js';

const [VMS, POINTS] = [300, 720] as const;

/** Each catalog in turn, as `JSON.parse` takes it: nothing of it is looked at. */
const PARSE = `
import { readdirSync, readFileSync } from 'node:fs';
const [folder] = process.argv.slice(1);
for (const name of readdirSync(folder)) JSON.parse(readFileSync(folder + '/' + name + '/catalog.json', 'utf8'));
`;

/** Each catalog in turn, as every verb reads it: proved to be what it says. */
const READ = `
import { readdirSync } from 'node:fs';
const [folder, reader] = process.argv.slice(1);
const { readCatalog } = await import(reader);
for (const name of readdirSync(folder)) await readCatalog(folder + '/' + name);
`;

const READER = new URL('../../../src/repository/catalog-file.js', import.meta.url).href;

export const report: Case = {
  name: 'report',
  idea: `the pages of ${VMS} VMs with ${POINTS} points each, against reading and parsing their catalogs`,
  unit: 'ms',
  limit: { by: 'times', atMost: 3 },
  bytes: () => 800 * MiB,
  unasked: ['memory'],
  prepare: async (bench) => {
    const targets = await makeUp(bench);
    const programs = await ofEachProgram(bench, (program) =>
      Promise.resolve(onceMade(bench, (output) => timed(() => runProgram(program, asked(targets, output))))),
    );
    const [program] = bench.programs;
    if (!program) throw new Error('there is no program to measure');
    return [
      ...programs,
      beside('status', () => timed(() => runProgram(program, ['status', '--target', targets]))),
      against('reading them', () => timed(() => evaluated(READ, [targets, READER]))),
      beside('JSON.parse', () => timed(() => evaluated(PARSE, [targets]))),
    ];
  },
};

export const reportMemory: Case = {
  ...report,
  name: 'report-memory',
  idea: `the most memory of a report of ${VMS} VMs with ${POINTS} points each`,
  unit: 'MiB',
  limit: { by: 'itself', atMost: null },
  prepare: async (bench) => {
    const targets = await makeUp(bench);
    const take = (program: Program): Take => onceMade(bench, (output) => peakMemory(program, asked(targets, output)));
    return ofEachProgram(bench, (program) => Promise.resolve(take(program)));
  },
};

async function evaluated(program: string, args: readonly string[]): Promise<void> {
  await execa(process.execPath, ['--input-type=module', '-e', program, ...args]);
}

async function makeUp({ dir }: Bench): Promise<string> {
  const targets = join(dir, 'targets');
  await mkdir(targets);
  for (let index = 0; index < VMS; index += 1) {
    const name = `vm${index}`;
    makeUpTarget({
      dir: join(targets, name),
      name,
      points: POINTS,
      newest: '2026-11-30T10:00:00.000Z',
      disks: ['vda'],
    });
  }
  return targets;
}

function asked(targets: string, output: string): readonly string[] {
  return ['report', '--target', targets, '--output', output];
}

function onceMade({ dir }: Bench, measure: (output: string) => Promise<number>): Take {
  return async () => {
    const output = join(dir, 'report');
    const measured = await measure(output);
    await rm(output, { recursive: true });
    return measured;
  };
}

import { mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { readConfig } from '../../src/config/read-config.js';
import { vmFrom } from '../../src/config/vm.js';
import { historyFolder, historyPath } from '../../src/run/history.js';
import { type RunContext, type RunEvent, runAll, type RunResult } from '../../src/run/run.js';
import type { StepEnd } from '../../src/run/step.js';

// A run of many VMs with its lock and its history, and without the program that does the steps.

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'qmpbackup-'));
  vi.stubEnv('STATE_DIRECTORY', join(dir, 'state'));
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await rm(dir, { recursive: true });
});

const DONE: StepEnd = { exitCode: 0, error: null, findings: [], warnings: [], summary: 'done', point: null };
const BEGIN = new Date(2026, 10, 30, 23, 0, 0);

interface Ran extends RunResult {
  readonly events: readonly RunEvent[];
}

async function run(
  settings: string,
  given: Partial<RunContext> = {},
  targets: Readonly<Record<string, string>> = { a: '/b/a', b: '/b/b', c: '/b/c' },
): Promise<Ran> {
  const vms = Object.entries(targets)
    .map(([name, target]) => `  ${name}: { socket: /s/${name}, target: ${target} }`)
    .join('\n');
  const config = readConfig(`vms:\n${vms}\nrun: { ${settings} }`, join(dir, 'config.yaml'));
  const events: RunEvent[] = [];
  const result = await runAll(
    config,
    [...config.vms].map(([name, vm]) => vmFrom(config, 'vms', { name, ...vm })),
    {
      signal: new AbortController().signal,
      now: () => BEGIN,
      random: () => 0.5,
      dryRun: false,
      powerOf: () => Promise.resolve('running'),
      runVerb: () => Promise.resolve(DONE),
      report: (event) => events.push(event),
      ...given,
    },
  );
  return { ...result, events };
}

it('begins nothing after the time that not-after names, which may be that of tomorrow', async () => {
  let now = BEGIN;
  const hours = (count: number): Partial<RunContext> => ({
    now: () => now,
    runVerb: () => {
      now = new Date(now.getTime() + count * 3_600_000);
      return Promise.resolve(DONE);
    },
  });
  const late = await run('not-after: "06:00"', hours(4));
  expect(late.ended.map(({ vm }) => vm)).toEqual(['a', 'b']);
  expect(late.notBegun).toEqual(['c']);
  expect(late.events).toContainEqual({ kind: 'not-begun', vm: 'c', why: 'it is too late' });
  now = BEGIN;
  expect((await run('not-after: "06:00"', hours(2))).notBegun).toEqual([]);
  now = BEGIN;
  expect((await run('', hours(24))).notBegun).toEqual([]);
});

it.each([
  // In the night in which clocks go forward at 2:00, there and back, and at a time that it has not.
  ['2027-03-27T22:00:00Z', '06:00', '2027-03-28T04:00:00Z'],
  ['2026-10-24T21:00:00Z', '06:00', '2026-10-25T05:00:00Z'],
  ['2027-03-27T22:00:00Z', '02:30', '2027-03-28T01:30:00Z'],
  // In the hour that the clock shows twice: before and after 2:45 of the first, and in the second.
  ['2026-10-25T00:30:00Z', '02:45', '2026-10-25T00:45:00Z'],
  ['2026-10-25T00:50:00Z', '02:45', '2026-10-25T01:45:00Z'],
  ['2026-10-25T01:30:00Z', '02:45', '2026-10-25T01:45:00Z'],
  ['2026-10-25T01:50:00Z', '02:45', '2026-10-26T01:45:00Z'],
  ['2027-07-01T22:30:00Z', '00:30', '2027-07-02T22:30:00Z'],
])('begun in Berlin at %s with not-after %s nothing is begun after %s', async (begun, notAfter, deadline) => {
  vi.stubEnv('TZ', 'Europe/Berlin');
  let now = new Date(begun);
  const at = async (ms: number): Promise<readonly string[]> => {
    now = new Date(begun);
    const settings = `not-after: "${notAfter}"`;
    const runVerb = (): Promise<StepEnd> => {
      now = new Date(ms);
      return Promise.resolve(DONE);
    };
    return (await run(settings, { now: () => now, runVerb })).notBegun;
  };
  expect(await at(Date.parse(deadline))).toEqual([]);
  expect(await at(Date.parse(deadline) + 1)).toEqual(['b', 'c']);
});

it('keeps what was done by then, also of a run that is ended', async () => {
  const end = new AbortController();
  const ending = run('parallel: 1', {
    signal: end.signal,
    runVerb: (args) => {
      if (args.includes('--target=/b/b')) end.abort(new Error('ended'));
      return Promise.resolve(DONE);
    },
  });
  await expect(ending).rejects.toThrow('ended');
  const kept = JSON.parse(await readFile(historyPath(historyFolder(join(dir, 'config.yaml'))), 'utf8')) as {
    vms: { vm: string }[];
  };
  expect(kept.vms.map(({ vm }) => vm)).toEqual(['a', 'b']);
});

it('is one at a time, and a dry run is held up by none and keeps nothing', async () => {
  let inside: Promise<unknown> | undefined;
  await run('', {
    runVerb: async () => {
      inside ??= run('');
      await expect(inside).rejects.toMatchObject({
        code: 'locked',
        message: expect.stringContaining('run of ') as string,
      });
      expect((await run('', { dryRun: true })).ended).toHaveLength(3);
      return DONE;
    },
  });
  expect((await run('')).ended).toHaveLength(3);
});

it('goes on where the history cannot be kept, and says so', async () => {
  await writeFile(join(dir, 'state'), 'no folder');
  const { ended, events, notKept } = await run('');
  expect(ended).toHaveLength(3);
  expect(events.filter(({ kind }) => kind === 'not-kept')).toHaveLength(3);
  expect(notKept).toMatch(/state/);
  await rm(join(dir, 'state'));
  expect((await run('')).notKept).toBeNull();
});

it('knows the storage of a target also behind links', async () => {
  const shm = await mkdtemp('/dev/shm/qmpbackup-');
  try {
    await symlink(shm, join(dir, 'link'));
    const busy = new Set<string>();
    const together = new Set<string>();
    await run(
      'parallel: 3, max-per-target: 1',
      {
        runVerb: async ([, target = '']) => {
          busy.add(target.slice(-1));
          together.add([...busy].toSorted().join(''));
          await setImmediate();
          busy.delete(target.slice(-1));
          return DONE;
        },
      },
      { a: join(dir, 'link', 'a'), b: join(shm, 'b'), c: '/proc/c' },
    );
    expect(together).toContain('ac');
    expect([...together].filter((each) => each.includes('ab'))).toEqual([]);
  } finally {
    await rm(shm, { recursive: true });
  }
});

it('waits for a part of the jitter', async () => {
  const { events } = await run('jitter: 1s', { random: () => 0.001 });
  expect(events[0]).toEqual({ kind: 'waiting', ms: 1 });
});

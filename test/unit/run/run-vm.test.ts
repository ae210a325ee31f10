import { expect, it } from 'vitest';
import { readConfig } from '../../../src/config/read-config.js';
import { vmFrom } from '../../../src/config/vm.js';
import type { VmHistory } from '../../../src/run/history.js';
import type { VmPower } from '../../../src/run/power.js';
import { runVm, type VmContext, type VmEvent } from '../../../src/run/run-vm.js';
import type { StepEnd } from '../../../src/run/step.js';

const DAY_MS = 86_400_000;
const POINT = { target: '/b/2026-11', name: 'c:0', level: 'full', bytes: 1, frozenMs: 2, pausedMs: null };
const DONE: StepEnd = { exitCode: 0, error: null, findings: [], warnings: [], summary: 'done', point: null };

function failed(code: NonNullable<StepEnd['error']>['code'], exitCode: number): StepEnd {
  return { ...DONE, exitCode, error: { code, message: `it is ${code}`, hint: null }, summary: null };
}

interface Given {
  readonly settings?: string;
  readonly power?: VmPower;
  readonly before?: VmHistory;
  readonly now?: number;
  readonly dryRun?: boolean;
  readonly late?: boolean;
  /** What the calls of a verb come to, one after the other; the last for all that follow. */
  readonly ends?: Readonly<Record<string, readonly StepEnd[]>>;
}

async function run(
  given: Given,
): Promise<{ readonly history: VmHistory; readonly calls: readonly string[]; readonly events: readonly VmEvent[] }> {
  const { settings = '', power = 'running', ends = {} } = given;
  const config = readConfig(
    `vms: { web1: { socket: /s, target: /b${settings} } }\nrun: { retries: 2, retry-after: 0s }`,
    '/c.yaml',
  );
  const [[name, named] = []] = [...config.vms];
  if (name === undefined || !named) throw new Error('no VM');
  const calls: string[] = [];
  const events: VmEvent[] = [];
  const context: VmContext = {
    signal: new AbortController().signal,
    now: () => new Date(given.now ?? 100 * DAY_MS),
    powerOf: () => Promise.resolve(power),
    config: '/c.yaml',
    isLate: () => given.late ?? false,
    dryRun: given.dryRun ?? false,
    report: (event) => events.push(event),
    runVerb: (args) => {
      const verb = args.includes('--boot') ? 'boot' : (args[0] ?? '');
      const of = ends[verb] ?? [verb === 'backup' ? { ...DONE, point: POINT } : DONE];
      const end = of[Math.min(calls.filter((each) => each.startsWith(verb)).length, of.length - 1)] ?? DONE;
      calls.push([verb, ...args.slice(1)].join(' '));
      return Promise.resolve(end);
    },
  };
  const history = await runVm(vmFrom(config, 'vms', { name, ...named }), given.before, config.run, context);
  return { history, calls, events };
}

const ALL = ', keep: { last: 1 }, verify: { read-data-within: 30d, boot-every: 7d }';

it('is a backup, a prune and the checks, and remembers them', async () => {
  const { history, calls } = await run({ settings: ALL });
  expect(calls).toEqual([
    'backup --target=/b --socket=/s',
    'prune --target=/b --keep-last=1',
    'verify --target=/b --read-data=30d/1d',
    'boot --target=/b --boot',
  ]);
  const at = new Date(100 * DAY_MS).toISOString();
  expect(history).toMatchObject({
    run: { result: 'ok' },
    folder: '/b/2026-11',
    failingSince: null,
    checks: { verify: at, boot: at },
  });
  expect(history.backup).toMatchObject({ name: 'c:0', at, frozenMs: 2 });
});

it('gives what tells that a point has booted to the boot test alone', async () => {
  const settings = ', verify: { every: 1d, boot-every: 7d, agent: true, expect: "serial:x", evidence: "/e/{vm}" }';
  const { calls } = await run({ settings });
  expect(calls).toEqual([
    'backup --target=/b --socket=/s',
    'verify --target=/b',
    'boot --target=/b --expect=serial:x --agent --evidence=/e/web1 --boot',
  ]);
});

it('makes a check when it is due, and not before', async () => {
  const { history: before } = await run({ settings: ALL });
  expect((await run({ settings: ALL, before, now: 100.5 * DAY_MS })).calls.map((each) => each.split(' ')[0])).toEqual([
    'backup',
    'prune',
  ]);
  expect((await run({ settings: ALL, before, now: 101 * DAY_MS })).calls.map((each) => each.split(' ')[0])).toEqual([
    'backup',
    'prune',
    'verify',
  ]);
  expect((await run({ settings: ALL, before, now: 107 * DAY_MS })).calls).toHaveLength(4);
  expect((await run({ settings: ALL, before, now: 107 * DAY_MS, late: true })).calls).toHaveLength(2);
});

it('prunes also where the backup failed, and goes on failing since the first time', async () => {
  const ends = { backup: [failed('failed', 1)] };
  const { history, calls } = await run({ settings: ', keep: { last: 1 }', ends });
  expect(calls).toHaveLength(2);
  expect(history).toMatchObject({
    run: { result: 'failed' },
    backup: null,
    failingSince: new Date(100 * DAY_MS).toISOString(),
  });
  const again = await run({ settings: ', keep: { last: 1 }', ends, before: history, now: 101 * DAY_MS });
  expect(again.history.failingSince).toBe(history.failingSince);
  expect((await run({ before: again.history })).history.failingSince).toBeNull();
});

it.each([
  ['locked', 11, 3],
  ['unreachable', 12, 3],
  ['unsafe', 13, 1],
] as const)('tries again what may pass: %s', async (code, exitCode, times) => {
  const { calls, history } = await run({ ends: { backup: [failed(code, exitCode)] } });
  expect(calls).toHaveLength(times);
  expect(history.run.steps).toHaveLength(1);
});

it('is well where a second attempt is', async () => {
  const { history } = await run({ ends: { backup: [failed('locked', 11), { ...DONE, point: POINT }] } });
  expect(history.run.result).toBe('ok');
});

it('does not try again where nobody listens', async () => {
  expect((await run({ power: 'off', ends: { backup: [failed('unreachable', 12)] } })).calls).toHaveLength(1);
  expect((await run({ dryRun: true, ends: { backup: [failed('unreachable', 12)] } })).calls).toHaveLength(1);
});

it.each([
  ['off', 'skip', 'skipped', 0],
  ['gone', 'skip', 'skipped', 0],
  ['off', 'fail', 'failed', 0],
  ['off', 'offline', 'ok', 1],
  ['unknown', 'skip', 'ok', 1],
] as const)('a VM that is %s, by if-off: %s, is %s', async (power, ifOff, result, calls) => {
  const done = await run({ power, settings: `, if-off: ${ifOff}, offline: { d1: /i }` });
  expect(done.history.run.result).toBe(result);
  expect(done.calls).toHaveLength(calls);
  if (power === 'off' && calls === 1) expect(done.calls[0]).toBe('backup --target=/b --offline=d1=/i');
});

it.each([
  ['prune', failed('locked', 11), 'warnings'],
  ['prune', failed('no-catalog', 10), 'ok'],
  ['prune', failed('unsafe', 13), 'failed'],
  ['prune', { ...DONE, exitCode: 3, findings: ['space is missing'] }, 'warnings'],
  ['verify', { ...DONE, exitCode: 4, findings: ['a file is damaged'] }, 'failed'],
  ['backup', { ...DONE, exitCode: 3, point: POINT, findings: ['d2 is not in the point'] }, 'failed'],
  ['backup', { ...DONE, point: POINT, warnings: ['something'] }, 'warnings'],
] as const)('what comes of %s makes the VM', async (verb, end, result) => {
  const { history } = await run({ settings: ALL, ends: { [verb]: [end] } });
  expect(history.run.result).toBe(result);
});

it('a check that found something, or could not be made, is made again until it is passed', async () => {
  const damaged = { ...DONE, exitCode: 4, findings: ['x'] };
  const { history: first } = await run({ settings: ALL, ends: { boot: [damaged] } });
  expect(first.checks.boot).toBeNull();
  const next = { settings: ALL, now: 100.5 * DAY_MS };
  const again = await run({ ...next, before: first, ends: { boot: [damaged] } });
  expect(again.calls.map((each) => each.split(' ')[0])).toEqual(['backup', 'prune', 'boot']);
  expect(again.history.failingSince).toBe(first.failingSince);
  // What was not made, or not to its end, says nothing.
  const late = await run({ ...next, before: again.history, late: true });
  expect(late.history).toMatchObject({ run: { result: 'ok' }, failingSince: first.failingSince });
  const locked = await run({ ...next, before: late.history, ends: { boot: [failed('locked', 11)] } });
  expect(locked.history).toMatchObject({ run: { result: 'warnings' }, failingSince: first.failingSince });
  const passed = await run({ ...next, before: locked.history });
  expect(passed.history).toMatchObject({ run: { result: 'ok' }, failingSince: null });
  expect(passed.history.checks.boot).not.toBeNull();
});

it('a VM that was left out fails for as long as before', async () => {
  const { history } = await run({ ends: { backup: [failed('failed', 1)] } });
  const skipped = await run({ before: history, power: 'off', settings: ', if-off: skip' });
  expect(skipped.history).toMatchObject({ run: { result: 'skipped' }, failingSince: history.failingSince });
});

it('a dry run asks backup and prune what they would do, and makes no check', async () => {
  const { calls, history } = await run({ settings: ALL, dryRun: true });
  expect(calls).toEqual(['backup --target=/b --socket=/s --dry-run', 'prune --target=/b --keep-last=1 --dry-run']);
  expect(history.run.steps.map(({ verb, summary }) => [verb, summary])).toContainEqual([
    'boot',
    'it is due, and would be made',
  ]);
});

it('with --monthly starts the month of the last point', async () => {
  const { calls } = await run({
    settings: ', monthly: true, vm-name: w, verify: { boot-every: 1d, qemu-arguments: [-accel, tcg] }',
  });
  expect(calls).toEqual([
    'backup --target=/b --monthly --vm-name=w --socket=/s',
    'boot --target=/b/2026-11 --boot -- -accel tcg',
  ]);
});

/** The guard as a process: whatever becomes of it, of its parent or of the agent, the guest ends thawed. */
import { type ChildProcess, spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { FreezeGuard, type FreezeGuardOptions, thawNow } from '../../src/guards/freeze-guard.js';
import { GuestNotThawed } from '../../src/guest-agent/errors.js';
import { built } from '../support/built.js';
import { FakeAgent, type FakeAgentOptions } from '../support/fake-agent.js';
import { patient } from '../support/patience.js';

const FREEZE = 'guest-fsfreeze-freeze';
const STATUS = 'guest-fsfreeze-status';
const THAW = 'guest-fsfreeze-thaw';

let program: string;
let agent: FakeAgent;
const guards: FreezeGuard[] = [];
const children: ChildProcess[] = [];

beforeAll(async () => {
  program = await built('guards/freeze-guard-main.js');
});
beforeEach(async () => {
  agent = await FakeAgent.start();
});
afterEach(async () => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
  for (const guard of guards.splice(0)) {
    await guard.release().catch((error: unknown) => expect(error).toBeInstanceOf(GuestNotThawed));
    expect(isAlive(guard.pid)).toBe(false);
  }
  await agent.close();
});

async function useAgent(options: FakeAgentOptions): Promise<void> {
  await agent.close();
  agent = await FakeAgent.start(options);
}

async function startGuard(options: Partial<FreezeGuardOptions> = {}): Promise<FreezeGuard> {
  const guard = await FreezeGuard.start({
    agent: agent.endpoint,
    program,
    connectTimeoutMs: patient(2_000),
    ...options,
  });
  guards.push(guard);
  return guard;
}

function isAlive(pid: number | undefined): boolean {
  if (pid === undefined) return false;
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false;
    throw error;
  }
}

/** A guard that is not our child is reaped by init, if there is one: a zombie counts as ended. */
async function hasEnded(pid: number, deadlineMs: number): Promise<boolean> {
  const until = performance.now() + patient(deadlineMs);
  for (;;) {
    const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => ') Z');
    if (/\) [ZX]/.test(stat)) return true;
    if (performance.now() > until) return false;
    await sleep(10);
  }
}

const thawedAgain = (fake: FakeAgent): boolean => !fake.frozen && fake.changes.some(({ frozen }) => frozen);
const commandsOf = (fake: FakeAgent): string[] => fake.received.map(({ command }) => command);

/** A process of its own that freezes and then prints; `exited` resolves to its exit code. */
async function startParent(
  steps: string,
  options: Partial<FreezeGuardOptions> = {},
): Promise<{
  readonly child: ChildProcess;
  readonly exited: Promise<number | null>;
  readonly guardPid: number;
  readonly line: () => Promise<string>;
}> {
  const library = pathToFileURL(await built('guards/freeze-guard.js')).href;
  const guardOptions = JSON.stringify({ agent: agent.endpoint, ...options });
  const script = `
    import { FreezeGuard } from ${JSON.stringify(library)};
    const guard = await FreezeGuard.start(${guardOptions});
    console.log(guard.pid);
    ${steps}`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    detached: true,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  children.push(child);
  // It may end while what it printed is read.
  const exited = new Promise<number | null>((resolve) => child.once('exit', resolve));
  const lines = lineReader(child);
  return { child, exited, guardPid: Number(await lines()), line: lines };
}

function lineReader(child: ChildProcess): () => Promise<string> {
  let text = '';
  child.stdout?.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
  return async () => {
    const until = performance.now() + patient(20_000);
    for (;;) {
      const end = text.indexOf('\n');
      if (end !== -1) {
        const line = text.slice(0, end);
        text = text.slice(end + 1);
        return line;
      }
      if (performance.now() > until) throw new Error('the parent printed nothing');
      await sleep(5);
    }
  };
}

const FREEZE_AND_WAIT = `
  await guard.freeze();
  console.log('frozen');
  setInterval(() => undefined, 1000);`;

describe('a freeze without trouble', () => {
  test('freezes, tells, and thaws with nothing but the status before it', async () => {
    const guard = await startGuard();
    expect(commandsOf(agent)).toEqual(['guest-sync-delimited', 'guest-info']);
    expect(await guard.freeze()).toEqual({ fileSystems: 2 });
    expect(agent.frozen).toBe(true);
    expect(await guard.status()).toBe('frozen');
    const begun = agent.received.length;
    const report = await guard.finish();
    expect(commandsOf(agent).slice(begun)).toEqual([STATUS, THAW, STATUS]);
    expect(report).toMatchObject({
      thawed: true,
      confirmed: true,
      statusAfterTransaction: 'frozen',
      thawedBy: 'request',
    });
    expect(report.freezeAnswerToThawRequestMs).toBeGreaterThan(0);
    expect(report.frozenForMs).toBeGreaterThanOrEqual(report.freezeAnswerToThawRequestMs);
    const { freezeAnsweredMs, thawRequestedMs, thawAnsweredMs, confirmedMs } = report.timeline!;
    const times = [0, freezeAnsweredMs!, thawRequestedMs, thawAnsweredMs, confirmedMs];
    expect(times).toEqual([...times].sort((a, b) => a - b));
    expect(agent.changes.map(({ frozen }) => frozen)).toEqual([true, false]);
    expect(await hasEnded(guard.pid!, 2_000)).toBe(true);
    expect(await guard.status()).toBe('thawed');
    expect(await guard.finish()).toEqual(report);
  });

  test('thaw() asks for no status before it', async () => {
    const guard = await startGuard();
    await guard.freeze();
    const begun = agent.received.length;
    expect(await guard.thaw()).toMatchObject({ confirmed: true, thawedBy: 'request' });
    expect(commandsOf(agent).slice(begun)).toEqual([THAW, STATUS]);
  });

  test('release() thaws what is still frozen', async () => {
    const guard = await startGuard();
    await guard.freeze();
    await guard.release();
    expect(thawedAgain(agent)).toBe(true);
    expect(isAlive(guard.pid)).toBe(false);
  });

  test('a guard that froze nothing ends with release(), and leaves the agent to others', async () => {
    const guard = await startGuard();
    await guard.release();
    expect(isAlive(guard.pid)).toBe(false);
    expect(await thawNow(agent.endpoint, { timeoutMs: 1_000 })).toBe('was-thawed');
    expect(agent.count(FREEZE)).toBe(0);
  });

  test('0 file systems are told, and that the guest is not frozen', async () => {
    await useAgent({ fileSystems: 0 });
    const guard = await startGuard();
    expect(await guard.freeze()).toEqual({ fileSystems: 0 });
    expect((await guard.finish()).statusAfterTransaction).toBe('thawed');
  });

  test('a guard freezes only once', async () => {
    const guard = await startGuard();
    await guard.freeze();
    await expect(guard.freeze()).rejects.toThrow('freezes only once');
  });

  test('a parent that forgets its guard ends all the same, and the guard with it', async () => {
    const { exited, guardPid } = await startParent('');
    expect(await exited).toBe(0);
    expect(await hasEnded(guardPid, 2_000)).toBe(true);
  });
});

describe('no start', () => {
  test('without an agent', async () => {
    await agent.stopListening();
    await expect(startGuard()).rejects.toMatchObject({ kind: 'unreachable' });
  });

  test('where another client holds the agent', async () => {
    const other = await startGuard();
    await expect(startGuard({ connectTimeoutMs: 300 })).rejects.toMatchObject({ kind: 'silent' });
    await other.release();
  });

  test('where the agent may not freeze', async () => {
    await useAgent({ disabled: [FREEZE] });
    await expect(startGuard()).rejects.toMatchObject({ kind: 'no-freeze' });
  });

  test('where the guest is frozen already', async () => {
    await useAgent({ frozen: true });
    await expect(startGuard()).rejects.toMatchObject({
      kind: 'already-frozen',
      hint: expect.stringContaining('socat') as string,
    });
    expect(agent.frozen).toBe(true);
  });

  test('when interrupted', async () => {
    agent.script = () => ({ answer: 'none' });
    const signal = AbortSignal.timeout(300);
    const begun = performance.now();
    await expect(startGuard({ signal, connectTimeoutMs: 20_000 })).rejects.toMatchObject({ code: 'interrupted' });
    expect(performance.now() - begun).toBeLessThan(patient(3_000));
  });

  test('without the program of the guard', async () => {
    await expect(startGuard({ program: '/nonexistent/guard.js' })).rejects.toMatchObject({
      kind: 'lost',
      message: expect.stringContaining('Cannot find module') as string,
    });
  });
});

describe('the parent', () => {
  test('SIGKILL while frozen: thawed at once', async () => {
    const { child, guardPid, line } = await startParent(FREEZE_AND_WAIT);
    expect(await line()).toBe('frozen');
    child.kill('SIGKILL');
    await agent.waitUntil(thawedAgain, 1_000, 'the thaw');
    expect(await hasEnded(guardPid, 2_000)).toBe(true);
  });

  test('SIGKILL while the freeze is under way: thawed as soon as the agent has frozen', async () => {
    agent.script = (command) => (command === FREEZE ? { afterMs: 600 } : undefined);
    const { child, guardPid } = await startParent(FREEZE_AND_WAIT);
    await agent.waitUntil((fake) => fake.count(FREEZE) === 1, 2_000, 'the freeze');
    child.kill('SIGKILL');
    await agent.waitUntil(thawedAgain, 2_000, 'freeze and thaw');
    const [froze, thawed] = agent.changes;
    expect(thawed!.at - froze!.at).toBeLessThan(patient(300));
    expect(await hasEnded(guardPid, 2_000)).toBe(true);
  });

  test('SIGSTOP while frozen: thawed at the limit, and told so when it goes on', async () => {
    const steps = `
      await guard.freeze();
      console.log('frozen');
      const begun = performance.now();
      while (performance.now() - begun < ${patient(200)});
      const { statusAfterTransaction, thawedBy } = await guard.finish();
      console.log(statusAfterTransaction, thawedBy);
      await guard.release();`;
    const { child, exited, guardPid, line } = await startParent(steps, { freezeLimitMs: patient(700) });
    expect(await line()).toBe('frozen');
    child.kill('SIGSTOP');
    await agent.waitUntil(thawedAgain, 1_500, 'the thaw at the limit');
    const [froze, thawed] = agent.changes;
    expect(thawed!.at - froze!.at).toBeGreaterThan(patient(650));
    expect(thawed!.at - froze!.at).toBeLessThan(patient(1_200));
    expect(await hasEnded(guardPid, 2_000)).toBe(true);
    child.kill('SIGCONT');
    expect(await line()).toBe('thawed limit');
    expect(await exited).toBe(0);
  });

  test('SIGTERM to its whole group: the guard is of another', async () => {
    const { child, guardPid, line } = await startParent(FREEZE_AND_WAIT);
    await line();
    process.kill(-child.pid!, 'SIGTERM');
    await agent.waitUntil(thawedAgain, 1_000, 'the thaw');
    expect(await hasEnded(guardPid, 2_000)).toBe(true);
  });

  test('ending without a word while frozen', async () => {
    const { guardPid, line } = await startParent(`await guard.freeze(); console.log('frozen'); process.exit(7);`);
    await line();
    await agent.waitUntil(thawedAgain, 1_000, 'the thaw');
    expect(await hasEnded(guardPid, 2_000)).toBe(true);
  });

  test('interrupted while the freeze is under way: thawed, then told', async () => {
    agent.script = (command) => (command === FREEZE ? { afterMs: 800 } : undefined);
    const stop = new AbortController();
    const guard = await startGuard({ signal: stop.signal });
    const told = expect(guard.freeze()).rejects.toMatchObject({ code: 'interrupted' });
    await agent.waitUntil((fake) => fake.count(FREEZE) === 1, 2_000, 'the freeze');
    stop.abort();
    await told;
    expect(thawedAgain(agent)).toBe(true);
  });
});

describe('the guard', () => {
  test.each(['SIGINT', 'SIGTERM', 'SIGHUP'] as const)('%s to its group is ignored', async (signal) => {
    const guard = await startGuard();
    await guard.freeze();
    process.kill(-guard.pid!, signal);
    await sleep(100);
    expect(agent.frozen).toBe(true);
    expect((await guard.finish()).statusAfterTransaction).toBe('frozen');
  });

  test('SIGKILL while frozen: the parent thaws, before it is asked', async () => {
    const guard = await startGuard();
    await guard.freeze();
    process.kill(guard.pid!, 'SIGKILL');
    await agent.waitUntil(thawedAgain, 1_000, 'the thaw');
    const report = await guard.finish();
    expect(report).toMatchObject({ thawed: true, thawedBy: 'parent', statusAfterTransaction: 'unknown' });
    expect(await guard.status()).toBe('thawed');
  });

  test('SIGKILL while the freeze is under way: the parent waits for it and thaws', async () => {
    agent.script = (command) => (command === FREEZE ? { afterMs: 600 } : undefined);
    const guard = await startGuard();
    const freeze = guard.freeze();
    await agent.waitUntil((fake) => fake.count(FREEZE) === 1, 2_000, 'the freeze');
    process.kill(guard.pid!, 'SIGKILL');
    await expect(freeze).rejects.toMatchObject({ kind: 'lost' });
    expect(thawedAgain(agent)).toBe(true);
  });

  test('SIGKILL before the freeze: the freeze says so, and nothing was frozen', async () => {
    const guard = await startGuard();
    process.kill(guard.pid!, 'SIGKILL');
    await expect(guard.freeze()).rejects.toMatchObject({ kind: 'lost' });
    expect(agent.count(FREEZE)).toBe(0);
  });

  test('SIGSTOP while frozen: the parent kills it and thaws', async () => {
    const guard = await startGuard();
    await guard.freeze();
    process.kill(guard.pid!, 'SIGSTOP');
    expect(await guard.finish()).toMatchObject({ thawedBy: 'parent', statusAfterTransaction: 'unknown' });
    expect(thawedAgain(agent)).toBe(true);
  });

  test('killed with an agent that answers no more: the error says how to thaw by hand', async () => {
    const guard = await startGuard({ thawTimeoutMs: 600 });
    await guard.freeze();
    agent.script = () => ({ answer: 'none', undone: true });
    process.kill(guard.pid!, 'SIGKILL');
    await expect(guard.finish()).rejects.toMatchObject({ hint: expect.stringContaining('socat') as string });
  });
});

describe('the agent', () => {
  test('refuses to freeze: its words are told, and the guest is thawed to be sure', async () => {
    agent.script = (command) => (command === FREEZE ? { answer: { error: 'failed to freeze /mnt: I/O error' } } : {});
    const guard = await startGuard();
    await expect(guard.freeze()).rejects.toMatchObject({
      kind: 'refused',
      message: expect.stringContaining('failed to freeze /mnt: I/O error') as string,
    });
    expect(thawedAgain(agent)).toBe(true);
    await guard.release();
  });

  test('freezes too late: told only when the late freeze has been thawed', async () => {
    agent.script = (command) => (command === FREEZE ? { afterMs: 900 } : undefined);
    const guard = await startGuard({ freezeTimeoutMs: 300 });
    await expect(guard.freeze()).rejects.toMatchObject({ kind: 'timeout' });
    expect(thawedAgain(agent)).toBe(true);
    const [froze, thawed] = agent.changes;
    expect(thawed!.at - froze!.at).toBeLessThan(patient(200));
  });

  test('never answers to the freeze but to the rest: thawed, and seen to stay so', async () => {
    agent.script = (command) => (command === FREEZE ? { answer: 'none' } : undefined);
    const guard = await startGuard({ freezeTimeoutMs: 300 });
    const begun = performance.now();
    await expect(guard.freeze()).rejects.toMatchObject({ kind: 'timeout' });
    expect(thawedAgain(agent)).toBe(true);
    expect(performance.now() - begun).toBeGreaterThan(1_300);
    expect(performance.now() - begun).toBeLessThan(patient(4_000));
  });

  test('hangs in the freeze for good: the run ends within its deadlines and says how to thaw by hand', async () => {
    agent.script = (command) => (command === FREEZE ? { until: new Promise(() => undefined) } : undefined);
    const guard = await startGuard({ freezeTimeoutMs: 300, thawTimeoutMs: 700 });
    const begun = performance.now();
    await expect(guard.freeze()).rejects.toBeInstanceOf(GuestNotThawed);
    expect(performance.now() - begun).toBeLessThan(patient(2_500));
    await guard.release();
  });

  test.each([
    ['garbage', { answer: { raw: '{"return": "what?"}\n' } }],
    ['no JSON', { answer: { raw: 'Segmentation fault\n' } }],
  ] as const)('answers to the freeze with %s', async (_, reaction) => {
    agent.script = (command) => (command === FREEZE ? reaction : undefined);
    const guard = await startGuard();
    await expect(guard.freeze()).rejects.toMatchObject({ kind: 'garbage' });
    expect(thawedAgain(agent)).toBe(true);
  });

  test.each(['guest-info', FREEZE, STATUS, THAW])('answers twice to %s', async (doubled) => {
    agent.script = (command) => (command === doubled ? { answer: 'twice' } : undefined);
    const guard = await startGuard();
    await guard.freeze();
    expect(await guard.status()).toBe('frozen');
    expect(await guard.finish()).toMatchObject({ thawed: true });
    expect(thawedAgain(agent)).toBe(true);
  });

  test.each([FREEZE, STATUS])('answers to %s again later', async (doubled) => {
    agent.script = (command) => (command === doubled ? { againAfterMs: 100 } : undefined);
    const guard = await startGuard();
    await guard.freeze();
    expect(await guard.status()).toBe('frozen');
    await sleep(200);
    expect(await guard.finish()).toMatchObject({ thawed: true, statusAfterTransaction: 'frozen' });
    expect(thawedAgain(agent)).toBe(true);
  });

  test('does not thaw the first two times', async () => {
    agent.script = (command, count) => (command === THAW && count <= 2 ? { undone: true } : undefined);
    const guard = await startGuard();
    await guard.freeze();
    expect(await guard.finish()).toMatchObject({ thawed: true, statusAfterTransaction: 'frozen' });
    expect(agent.count(THAW)).toBe(3);
    expect(thawedAgain(agent)).toBe(true);
  });

  test('refuses to thaw for good: the error has its words and the way to thaw by hand', async () => {
    agent.script = (command) => (command === THAW ? { undone: true, answer: { error: 'FITHAW failed' } } : undefined);
    const guard = await startGuard({ thawTimeoutMs: 500 });
    await guard.freeze();
    await expect(guard.finish()).rejects.toMatchObject({
      message: expect.stringContaining('FITHAW failed') as string,
      hint: expect.stringMatching(/guest-fsfreeze-thaw.*socat.*agent\.sock/) as string,
    });
    expect(await hasEnded(guard.pid!, 1_000)).toBe(true);
    await guard.release();
  });

  test('loses the connection between freeze and thaw: a new one is opened', async () => {
    const guard = await startGuard();
    await guard.freeze();
    agent.hangUp();
    await sleep(50);
    expect(await guard.finish()).toMatchObject({ thawed: true });
    expect(thawedAgain(agent)).toBe(true);
  });

  test('hangs up in the middle of the thaw', async () => {
    agent.script = (command, count) =>
      command === THAW && count === 1 ? { undone: true, hangUp: 'before-answer' } : undefined;
    const guard = await startGuard();
    await guard.freeze();
    expect(await guard.finish()).toMatchObject({ thawed: true });
    expect(thawedAgain(agent)).toBe(true);
  });

  test('is gone with its VM between freeze and thaw: the guard does not wait for long', async () => {
    const guard = await startGuard();
    await guard.freeze();
    await agent.stopListening();
    const begun = performance.now();
    await expect(guard.finish()).rejects.toBeInstanceOf(GuestNotThawed);
    expect(performance.now() - begun).toBeLessThan(patient(6_000));
  });

  test('is slow to thaw: waited for', async () => {
    agent.script = (command) => (command === THAW ? { afterMs: 2_500 } : undefined);
    const guard = await startGuard();
    await guard.freeze();
    const report = await guard.finish();
    expect(report.frozenForMs).toBeGreaterThan(2_000);
    expect(thawedAgain(agent)).toBe(true);
  });
});

describe('thawNow', () => {
  test('gives up in time when nobody answers, and says how to thaw by hand', async () => {
    agent.script = () => ({ answer: 'none' });
    const begun = performance.now();
    await expect(thawNow(agent.endpoint, { timeoutMs: 400 })).rejects.toMatchObject({
      name: 'GuestNotThawed',
      hint: expect.stringContaining('socat') as string,
    });
    expect(performance.now() - begun).toBeLessThan(patient(1_500));
  });

  test('does not wait where nobody listens', async () => {
    await agent.stopListening();
    const begun = performance.now();
    await expect(thawNow(agent.endpoint, { timeoutMs: 10_000 })).rejects.toBeInstanceOf(GuestNotThawed);
    expect(performance.now() - begun).toBeLessThan(patient(1_000));
  });
});

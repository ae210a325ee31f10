/** Both sides of a guard's process, with programs that do what no guard of ours does. */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { beforeAll, expect, test } from 'vitest';
import { DetachedGuard, type DetachedOptions } from '../../src/guards/detached.js';
import { built } from '../support/built.js';
import { patient } from '../support/patience.js';
import { afterTest, labDir } from '../support/scenario.js';

interface Say {
  readonly type: 'say';
  readonly words: string;
}

let ownSide: string;
beforeAll(async () => {
  ownSide = pathToFileURL(await built('guards/own-side.js')).href;
});

/** A guard whose program does `steps`; `heard` and `lost` are what comes of it. */
async function start(steps: string, options: Partial<DetachedOptions<Say>> = {}) {
  const program = join(await labDir(), 'guard.mjs');
  const valibot = import.meta.resolve('valibot');
  const imports = `
    import * as v from ${JSON.stringify(valibot)};
    import { beginGuard, hearOwner, tellOwner } from ${JSON.stringify(ownSide)};
    const say = (words) => tellOwner({ type: 'say', words });`;
  await writeFile(program, `${imports}\n${steps}`);
  const heard: string[] = [];
  const lost: string[] = [];
  const guard = new DetachedGuard<Say, Say>({
    program,
    task: { word: 'task' },
    on: { say: ({ words }) => heard.push(words) },
    onLost: (why) => lost.push(why),
    keepStderr: true,
    ...options,
  });
  afterTest(() => Promise.resolve(guard.kill()));
  return { guard, heard, lost };
}

const BEGIN = `const task = beginGuard(v.object({ word: v.string() }));`;
const LISTEN = `
  hearOwner({ say: ({ words }) => say('heard ' + words) }, () => say('gone'));
  tellOwner({ type: 'ready' });`;
const soon = { timeout: patient(10_000), interval: 20 };

test('gets its task, leads its group, has no options of its owner for Node, and hears and says all in order', async () => {
  process.env.NODE_OPTIONS = '--no-warnings';
  afterTest(() => Promise.resolve(void delete process.env.NODE_OPTIONS));
  const { guard, heard, lost } = await start(`${BEGIN} say(task.word + process.env.NODE_OPTIONS); ${LISTEN}`);
  await guard.ready('it');
  const stat = await readFile(`/proc/${guard.pid}/stat`, 'utf8');
  expect(Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[2])).toBe(guard.pid);
  guard.send({ type: 'say', words: '1' });
  guard.send({ type: 'say', words: '2' });
  guard.release();
  await guard.exited;
  await expect.poll(() => lost, soon).toEqual(['its process ended']);
  expect(heard).toEqual(['taskundefined', 'heard 1', 'heard 2', 'gone']);
  guard.send({ type: 'say', words: '3' });
});

test('does not begin with a task that does not fit', async () => {
  const { guard, lost } = await start(`${BEGIN} ${LISTEN}`, { task: { word: 1 } });
  await expect(guard.ready('it')).rejects.toThrow(/guards it did not start: its process ended: .*Expected string/s);
  expect(lost).toHaveLength(1);
});

test('that never says that it listens is not left behind', async () => {
  const { guard } = await start(`setInterval(() => undefined, 1000);`);
  await expect(guard.ready('it')).rejects.toThrow('the process that guards it did not start: it said nothing for 10 s');
  await guard.exited;
});

test('takes what it cannot read for the end of its owner', async () => {
  const { guard, heard } = await start(`${BEGIN} ${LISTEN}`);
  await guard.ready('it');
  guard.send({ type: 'shout' } as unknown as Say);
  guard.send({ type: 'say', words: '1' });
  await guard.exited;
  await expect.poll(() => heard, soon).toEqual(['gone']);
});

test('that says what cannot be read is let go, not killed', async () => {
  const { guard, heard, lost } = await start(`${BEGIN} ${LISTEN} process.stdout.write('what?\\n');`);
  await guard.exited;
  await expect
    .poll(() => lost, soon)
    .toEqual([expect.stringMatching(/^its process ended: not a JSON message .*what\?/)]);
  expect(heard).toEqual(['gone']);
});

test('that is killed takes with it what it has started', async () => {
  const steps = `
    import { spawn } from 'node:child_process';
    ${BEGIN} ${LISTEN} say(String(spawn('sleep', ['60'], { stdio: 'ignore' }).pid));`;
  const { guard, heard } = await start(steps);
  await expect.poll(() => heard, soon).toHaveLength(1);
  guard.kill();
  await guard.exited;
  const state = () => readFile(`/proc/${heard[0]}/stat`, 'utf8').catch(() => ') Z');
  await expect.poll(state, soon).toMatch(/\) [ZX]/);
  guard.kill();
});

test('that cannot be started is lost, with the reason', async () => {
  const { guard, lost } = await start('', { cwd: '/nonexistent' });
  await expect(guard.ready('it')).rejects.toThrow(/did not start: spawn .* ENOENT/);
  await guard.exited;
  expect(lost).toEqual([expect.stringContaining('ENOENT')]);
});

import { mkdir, readdir, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { thisProcess } from '../../src/host/lock-owner.js';
import { lockTarget } from '../../src/repository/lock.js';
import { LockChild } from '../support/lock-child.js';
import { patient } from '../support/patience.js';
import { scratchFolders } from '../support/scratch-folder.js';

/** Locks between real processes, some of which are killed or stopped. */

const scratch = scratchFolders();
const children: LockChild[] = [];

async function child(): Promise<LockChild> {
  const started = await LockChild.start();
  children.push(started);
  return started;
}

afterEach(async () => {
  for (const each of children.splice(0)) {
    // A stopped process dies of SIGKILL only.
    await each.end('SIGKILL');
  }
});

describe('a lock between processes', () => {
  it.each(['target', 'vm'] as const)('of a %s: the second ends at once and says who holds it', async (kind) => {
    const key = await scratch();
    const [first, second] = [await child(), await child()];
    expect(await first.lock(kind, key, { purpose: 'backup of web' })).toEqual({ locked: true });
    const begun = performance.now();
    expect(await second.lock(kind, key)).toMatchObject({
      locked: false,
      code: 'locked',
      message: expect.stringMatching(new RegExp(`${key} is locked by backup of web \\(pid ${first.pid} on `)) as string,
      hint: expect.stringContaining(`end process ${first.pid}`) as string,
    });
    expect(performance.now() - begun).toBeLessThan(patient(1_000));
    await first.ask('release');
    expect(await second.lock(kind, key)).toEqual({ locked: true });
    await second.ask('release');
    expect(await readdir(key)).toEqual([]);
  });

  it('of who only looks is waited for by others that look, and refused to whoever writes', async () => {
    const target = await scratch();
    const looking = await Promise.all(Array.from({ length: 6 }, child));
    const writing = await child();
    const LOOK = { looks: true, purpose: 'serve' };
    for (const each of looking) each.send('lock', { kind: 'target', key: target, breakLock: false, ...LOOK });
    // One after the other, whoever is first.
    const waiting = new Map(looking.map((each) => [each, each.next()]));
    while (waiting.size > 0) {
      const [holder, answer] = await Promise.race(
        [...waiting].map(async ([each, told]) => [each, await told] as const),
      );
      expect(answer).toEqual({ locked: true });
      waiting.delete(holder);
      expect(await writing.lock('target', target)).toMatchObject({ locked: false, code: 'locked' });
      await holder.ask('release');
    }
    expect(await writing.lock('target', target)).toEqual({ locked: true });
    expect(await looking[0]?.lock('target', target, LOOK)).toMatchObject({ locked: false, code: 'locked' });
    await writing.ask('release');
    const [killed, next] = looking;
    await killed?.lock('target', target, LOOK);
    await killed?.end('SIGKILL');
    expect(await next?.lock('target', target, LOOK)).toEqual({ locked: true });
    await next?.ask('release');
    expect(await readdir(target)).toEqual([]);
  });

  it('of an owner that was killed is taken at once', async () => {
    const target = await scratch();
    const [first, second] = [await child(), await child()];
    await first.lock('target', target);
    await first.end('SIGKILL');
    expect(await readdir(target)).toEqual(['.lock']);
    expect(await second.lock('target', target)).toEqual({ locked: true });
    await second.ask('release');
    expect(await readdir(target)).toEqual([]);
  });

  it('of an owner that is stopped is never taken, and is still its own when it goes on', async () => {
    const target = await scratch();
    const [first, second] = [await child(), await child()];
    await first.lock('target', target);
    first.process.kill('SIGSTOP');
    // As if it had been stopped for a day.
    await utimes(join(target, '.lock'), new Date(Date.now() - 86_400_000), new Date(Date.now() - 86_400_000));
    for (const breakLock of [false, true]) {
      expect(await second.lock('target', target, { breakLock })).toMatchObject({ locked: false, code: 'locked' });
    }
    first.process.kill('SIGCONT');
    await sleep(2_500);
    expect(await second.lock('target', target)).toMatchObject({ locked: false });
    expect(await first.ask('release')).toEqual({ released: true });
    expect(await readdir(target)).toEqual([]);
  });

  it('of a dead owner goes to exactly one of many contenders', async () => {
    const target = await scratch();
    const contenders = await Promise.all([child(), child(), child(), child(), child()]);
    for (let round = 0; round < 40; round += 1) {
      await mkdir(join(target, '.lock'));
      const dead = { ...thisProcess('dead'), processStartTime: '1' };
      await writeFile(join(target, '.lock', 'owner-00000000000000aa.json'), JSON.stringify(dead));
      const answers = await Promise.all(contenders.map((each) => each.lock('target', target)));
      const winners = contenders.filter((_, index) => answers[index]?.locked);
      expect(winners, JSON.stringify(answers)).toHaveLength(1);
      expect(answers.filter(({ code }) => code === 'locked')).toHaveLength(contenders.length - 1);
      await winners[0]?.ask('release');
      expect(await readdir(target)).toEqual([]);
    }
  });

  it('excludes all others while processes are killed at any step', async () => {
    const target = await scratch();
    const inside = join(target, 'inside');
    let held = 0;
    /** Takes and releases; every third time it is killed while it takes, and every third while it releases. */
    const worker = async (rounds: number): Promise<void> => {
      let current = await child();
      for (let round = 0; round < rounds; round += 1) {
        if (round % 3 === 0) {
          current.send('lock', { kind: 'target', key: target, purpose: 'test', breakLock: false });
        } else {
          const answer = await current.lock('target', target);
          if (!answer.locked) continue;
          held += 1;
          // Fails if anybody else is inside.
          await writeFile(inside, '', { flag: 'wx' });
          await sleep(Math.random() * 5);
          await rm(inside);
          if (round % 3 === 1) {
            await current.ask('release');
            continue;
          }
          current.send('release');
        }
        await sleep(Math.random() * 6);
        await current.end('SIGKILL');
        current = await child();
      }
    };
    await Promise.all([worker(21), worker(21), worker(21)]);
    expect(held).toBeGreaterThan(5);
    const last = await lockTarget(target, { breakLock: false, purpose: 'last' });
    await last.release();
    expect(await readdir(target)).toEqual([]);
  });

  it.each([
    ['ends without a release', (owner: LockChild) => owner.send('exit', { code: 0 }), 0, null],
    ['ends by a signal that it does not handle', (owner: LockChild) => owner.process.kill('SIGTERM'), null, 'SIGTERM'],
    ['is interrupted', (owner: LockChild) => owner.process.kill('SIGINT'), null, 'SIGINT'],
  ] as const)('is not left behind when its owner %s', async (_, how, code, signal) => {
    const target = await scratch();
    const owner = await child();
    await owner.lock('target', target);
    await owner.lock('vm', target);
    const ended = new Promise((resolve) => owner.process.once('exit', (...how) => resolve(how)));
    how(owner);
    expect(await ended).toEqual([code, signal]);
    expect(await readdir(target)).toEqual([]);
  });

  it('leaves the handling of signals to its owner', async () => {
    const target = await scratch();
    const owner = await child();
    await owner.lock('target', target);
    await owner.ask('handleSignals');
    const ended = new Promise((resolve) => owner.process.once('exit', (...how) => resolve(how)));
    owner.process.kill('SIGTERM');
    expect(await owner.next()).toEqual({ event: 'cleaned up' });
    expect(await ended).toEqual([143, null]);
    expect(await readdir(target)).toEqual([]);
  });

  it('tells its owner within seconds when it is broken', async () => {
    const target = await scratch();
    const owner = await child();
    await owner.lock('target', target);
    // What --break-lock on another host does: it sees another host in the record.
    await rm(join(target, '.lock'), { recursive: true });
    const next = await lockTarget(target, { breakLock: true, purpose: 'next' });
    expect(await owner.next()).toMatchObject({ event: 'lost', message: expect.stringContaining(target) as string });
    expect(await owner.ask('release')).toEqual({ released: true });
    expect(next.signal.aborted).toBe(false);
    await owner.end('SIGTERM');
    expect(await readdir(target)).toEqual(['.lock']);
    await next.release();
  });
});

describe('the refresh of a lock', () => {
  it('is a sign of life, and does not mind that others change the times', async () => {
    const target = await scratch();
    const lock = await lockTarget(target, { breakLock: false, purpose: 'test' });
    const begun = Date.now();
    await utimes(join(target, '.lock'), 1, 1);
    const touched = async (): Promise<number> => (await stat(join(target, '.lock'))).mtimeMs;
    await expect.poll(touched, { timeout: patient(2_500) }).toBeGreaterThan(begun);
    expect(lock.signal.aborted).toBe(false);
    await lock.release();
  });

  it.each(['deleted', 'broken'])(
    'notices that it was %s; the release then frees nothing of the next owner',
    async (how) => {
      const target = await scratch();
      const lock = await lockTarget(target, { breakLock: false, purpose: 'test' });
      await rm(join(target, '.lock'), { recursive: true });
      if (how === 'broken') {
        await mkdir(join(target, '.lock'));
        await writeFile(join(target, '.lock', 'owner-00000000000000aa.json'), JSON.stringify(thisProcess('next')));
      }
      await expect
        .poll(() => lock.signal.reason as unknown, { timeout: patient(4_000) })
        .toMatchObject({ code: 'locked', message: expect.stringContaining('was lost') as string });
      await lock.release();
      expect(await readdir(target)).toEqual(how === 'broken' ? ['.lock'] : []);
    },
  );
});

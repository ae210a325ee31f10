import { chmod, mkdir, readdir, readFile, rm, stat, symlink, utimes, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { type LockOwner, thisProcess } from '../../../src/host/lock-owner.js';
import { lockTarget, lockVm } from '../../../src/repository/lock.js';
import { vmLockFolder } from '../../../src/repository/vm-lock-folder.js';
import { scratchFolders } from '../../support/scratch-folder.js';

const scratch = scratchFolders();
const plain = { breakLock: false, purpose: 'test' };
const breaking = { breakLock: true, purpose: 'test' };
/** Above any pid that Linux gives by default and allowed all the same: nobody has it. */
const NOBODY = 4_194_303;

/** A target locked by somebody who is like this process but for `change`. */
async function lockedBy(change: Partial<LockOwner>): Promise<string> {
  return lockedWith(JSON.stringify({ ...thisProcess('backup of web'), ...change }));
}

async function lockedWith(record: string): Promise<string> {
  const target = await scratch();
  await mkdir(join(target, '.lock'));
  await writeFile(join(target, '.lock', 'owner-00000000000000aa.json'), record);
  return target;
}

async function expectTaken(target: string, options = plain): Promise<void> {
  const lock = await lockTarget(target, options);
  expect(lock.signal.aborted).toBe(false);
  await lock.release();
  expect(await readdir(target)).toEqual([]);
}

function refused(...words: string[]): unknown {
  return expect.objectContaining({
    code: 'locked',
    message: expect.stringMatching(new RegExp(words.join('.*'))) as string,
  });
}

describe('lockTarget', () => {
  it('holds until it is released, and then leaves nothing behind', async () => {
    const target = await scratch();
    const lock = await lockTarget(target, { breakLock: false, purpose: 'backup of web' });
    await expect(lockTarget(target, breaking)).rejects.toEqual(
      refused(target, 'backup of web', `pid ${process.pid}`, hostname(), 'since 2'),
    );
    await lock.release();
    await lock.release();
    expect(await readdir(target)).toEqual([]);
    expect(lock.signal.aborted).toBe(false);
    await expectTaken(target);
  });

  it('knows one target under any name', async () => {
    const target = await scratch();
    const link = join(await scratch(), 'link');
    await symlink(target, link);
    const lock = await lockTarget(link, plain);
    await expect(lockTarget(target, plain)).rejects.toEqual(refused('locked'));
    await lock.release();
  });

  it.each<[string, Partial<LockOwner>]>([
    ['whose process is gone', { pid: NOBODY }],
    ['whose pid another process has now', { processStartTime: '1' }],
    ['of an earlier boot', { bootId: 'earlier' }],
  ])('is taken at once from an owner %s', async (_, change) => {
    await expectTaken(await lockedBy(change));
  });

  it.each<[string, Partial<LockOwner>]>([
    ['on another host', { host: 'other', pid: NOBODY }],
    ['on another host of this name', { machineId: 'other', bootId: 'other' }],
    ['in another pid namespace', { pidNamespace: 'pid:[1]', pid: NOBODY }],
  ])('is taken from an owner %s only with --break-lock', async (_, change) => {
    const target = await lockedBy(change);
    const seen = new Date('2026-01-02T03:04:05.000Z');
    await utimes(join(target, '.lock'), seen, seen);
    await expect(lockTarget(target, plain)).rejects.toMatchObject({
      code: 'locked',
      message: expect.stringContaining('backup of web') as string,
      hint: expect.stringMatching(/2026-01-02T03:04:05.*--break-lock/) as string,
    });
    await expectTaken(target, breaking);
  });

  it('is never taken from a live owner, however old the lock looks', async () => {
    const target = await lockedBy({});
    await utimes(join(target, '.lock'), 1, 1);
    for (const options of [plain, breaking]) {
      await expect(lockTarget(target, options)).rejects.toMatchObject({
        code: 'locked',
        hint: expect.stringContaining(`end process ${process.pid}`) as string,
      });
    }
  });

  it.each(['', '{"pid":', '{}'])('with the record %j is taken only with --break-lock', async (record) => {
    const target = await lockedWith(record);
    await expect(lockTarget(target, plain)).rejects.toEqual(refused('cannot be read'));
    await expectTaken(target, breaking);
  });

  it('goes on after a death at any step of taking or freeing it', async () => {
    // Freed, but the empty folder is still there.
    const freed = await scratch();
    await mkdir(join(freed, '.lock'));
    await expectTaken(freed);
    // Died with its record written and not yet in place.
    const written = await lockedBy({ pid: NOBODY });
    await mkdir(join(written, '.lock.new-00000000000000bb'));
    await writeFile(
      join(written, '.lock.new-00000000000000bb', 'owner-00000000000000bb.json'),
      JSON.stringify({ ...thisProcess('test'), pid: NOBODY }),
    );
    await expectTaken(written);
    // Died before its record was written, or while it wrote it.
    for (const record of [undefined, '', '{"pid":']) {
      const begun = await scratch();
      const attempt = join(begun, '.lock.new-00000000000000cc');
      await mkdir(attempt);
      if (record !== undefined) await writeFile(join(attempt, 'owner-00000000000000cc.json'), record);
      await expectTaken(begun);
    }
  });

  it('is refused where the lock is something else', async () => {
    const file = await scratch();
    await writeFile(join(file, '.lock'), '');
    const link = await scratch();
    await symlink('/etc', join(link, '.lock'));
    const folder = await scratch();
    await mkdir(join(folder, '.lock'));
    await writeFile(join(folder, '.lock', 'notes'), '');
    for (const target of [file, link, folder]) {
      await expect(lockTarget(target, breaking)).rejects.toMatchObject({
        code: 'unsafe',
        message: expect.stringContaining(join(target, '.lock')) as string,
      });
    }
    expect(await readdir(join(folder, '.lock'))).toEqual(['notes']);
  });

  it('needs its folder', async () => {
    const root = await scratch();
    await expect(lockTarget(join(root, 'gone'), plain)).rejects.toThrow(`cannot lock ${join(root, 'gone')}`);
    await writeFile(join(root, 'file'), '');
    await expect(lockTarget(join(root, 'file'), plain)).rejects.toMatchObject({ code: 'unsafe' });
  });

  it('frees nothing of the next owner when it did not notice its loss', async () => {
    const target = await scratch();
    const lock = await lockTarget(target, plain);
    await rm(join(target, '.lock'), { recursive: true });
    await mkdir(join(target, '.lock'));
    const next = join(target, '.lock', 'owner-00000000000000aa.json');
    await writeFile(next, JSON.stringify(thisProcess('next')));
    await lock.release();
    expect(JSON.parse(await readFile(next, 'utf8'))).toMatchObject({ what: 'next' });
  });
});

describe('lockVm', () => {
  it('is one lock per monitor', async () => {
    const key = join(await scratch(), 'monitor');
    const lock = await lockVm(key, { breakLock: false, purpose: 'backup into /t' });
    const other = await lockVm(`${key}2`, plain);
    await expect(lockVm(key, plain)).rejects.toEqual(refused(`the VM at ${key}`, 'backup into /t'));
    await lock.release();
    await other.release();
    await (await lockVm(key, plain)).release();
  });

  it('is in a folder that all users share, else in one of this user', async () => {
    const root = await scratch();
    const shared = { path: join(root, 'shared'), mode: 0o1777, shared: true };
    const own = { path: join(root, 'own'), mode: 0o700, shared: false };
    const umask = process.umask(0o077);
    try {
      expect(await vmLockFolder([shared, own])).toBe(shared.path);
    } finally {
      process.umask(umask);
    }
    expect((await stat(shared.path)).mode & 0o7777).toBe(0o1777);
    await chmod(shared.path, 0o755);
    expect(await vmLockFolder([shared, own])).toBe(shared.path);
    expect((await stat(shared.path)).mode & 0o7777).toBe(0o1777);

    const missing = { ...shared, path: join(root, 'no', 'such') };
    expect(await vmLockFolder([missing, own])).toBe(own.path);
    expect((await stat(own.path)).mode & 0o7777).toBe(0o700);
    await writeFile(join(root, 'file'), '');
    await symlink('/etc', join(root, 'link'));
    const wrong = ['file', 'link'].map((name) => ({ ...shared, path: join(root, name) }));
    await expect(vmLockFolder([missing, ...wrong])).rejects.toMatchObject({
      code: 'failed',
      message: expect.stringMatching(/ENOENT.*ENOTDIR/) as string,
    });
  });
});

import { mkdir, readdir, readFile, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { renameDurably, replaceFile, syncFile, syncFolder } from '../../../src/host/durable.js';
import { readJournal, removeJournal, writeJournal } from '../../../src/repository/journal-file.js';
import { journal } from '../../support/builders.js';
import { scratchFolders } from '../../support/scratch-folder.js';

const scratch = scratchFolders();

describe('replaceFile', () => {
  it('puts the new text in the place of the old, with its mode whatever the umask', async () => {
    const folder = await scratch();
    const path = join(folder, 'a');
    const umask = process.umask(0o777);
    try {
      await replaceFile(path, 'old', { mode: 0o600 });
      await replaceFile(path, 'new', { mode: 0o600 });
    } finally {
      process.umask(umask);
    }
    expect(await readFile(path, 'utf8')).toBe('new');
    expect((await stat(path)).mode & 0o777).toBe(0o600);
    expect(await readdir(folder)).toEqual(['a']);
  });

  it('replaces the temporary file that a crash left', async () => {
    const folder = await scratch();
    await writeFile(join(folder, 'a.tmp'), 'half');
    await replaceFile(join(folder, 'a'), 'whole', { mode: 0o600 });
    expect(await readdir(folder)).toEqual(['a']);
  });

  it('lets many replace a file at once where no lock keeps them from it', async () => {
    const folder = await scratch();
    const path = join(folder, 'a');
    const texts = Array.from({ length: 20 }, (_, number) => `${number}`.repeat(100_000));
    await Promise.all(texts.map((text) => replaceFile(path, text, { mode: 0o600, isContended: true })));
    expect(texts).toContain(await readFile(path, 'utf8'));
    expect(await readdir(folder)).toEqual(['a']);
  });

  it('does not write through a link in the temporary place', async () => {
    const folder = await scratch();
    const victim = join(folder, 'victim');
    await writeFile(victim, 'mine');
    await symlink(victim, join(folder, 'a.tmp'));
    await replaceFile(join(folder, 'a'), 'text', { mode: 0o600 });
    expect(await readFile(victim, 'utf8')).toBe('mine');
  });

  it('leaves the old file and nothing else when it fails', async () => {
    const folder = await scratch();
    await mkdir(join(folder, 'a', 'b'), { recursive: true });
    await expect(replaceFile(join(folder, 'a'), 'text', { mode: 0o600 })).rejects.toMatchObject({ code: 'unsafe' });
    expect(await readdir(folder)).toEqual(['a']);
    await expect(replaceFile(join(folder, 'no', 'a'), 'text', { mode: 0o600 })).rejects.toMatchObject({
      code: 'failed',
      message: expect.stringContaining('cannot write') as string,
    });
  });

  it.runIf(process.getuid?.() === 0)('gives the file to its owner', async () => {
    const path = join(await scratch(), 'a');
    await replaceFile(path, 'text', { mode: 0o600, owner: { uid: 65534, gid: 65533 } });
    expect(await stat(path)).toMatchObject({ uid: 65534, gid: 65533 });
  });
});

describe('sync and rename', () => {
  it('name the path when it is not there', async () => {
    const folder = await scratch();
    await expect(syncFile(join(folder, 'gone'))).rejects.toThrow(`cannot flush ${join(folder, 'gone')}`);
    await expect(syncFolder(join(folder, 'gone'))).rejects.toThrow('cannot flush the folder');
    await expect(renameDurably(join(folder, 'gone'), join(folder, 'b'))).rejects.toThrow('gone');
  });

  it('rename within and between folders', async () => {
    const folder = await scratch();
    await mkdir(join(folder, 'sub'));
    await writeFile(join(folder, 'a'), 'text');
    await syncFile(join(folder, 'a'));
    await renameDurably(join(folder, 'a'), join(folder, 'b'));
    await renameDurably(join(folder, 'b'), join(folder, 'sub', 'c'));
    expect(await readdir(folder, { recursive: true })).toEqual(['sub', 'sub/c']);
  });
});

describe('the journal', () => {
  const written = journal('abcdefabcdef', [{ disk: 'vd1', bitmap: 'b', job: 'j', file: 'FULL-1.qcow2' }]);

  it('is read back as written, and removed', async () => {
    const target = await scratch();
    expect(await readJournal(target)).toBeUndefined();
    await writeJournal(target, written);
    expect(await readJournal(target)).toEqual(written);
    await removeJournal(target);
    await removeJournal(target);
    expect(await readdir(target)).toEqual([]);
  });

  it.each([
    ['{', 'is damaged'],
    ['', 'is damaged'],
    ['{}', 'not a journal'],
    ['null', 'not a journal'],
    [JSON.stringify({ ...written, disks: [{ ...written.disks[0], disk: '../..' }] }), 'not a journal'],
  ])('is refused when it reads %j', async (text, why) => {
    const target = await scratch();
    await writeFile(join(target, 'run.json'), text);
    await expect(readJournal(target)).rejects.toMatchObject({
      code: 'unsafe',
      message: expect.stringContaining(why) as string,
      hint: expect.stringContaining('move the file away') as string,
    });
  });

  it('is not written in a shape that could not be read', async () => {
    const target = await scratch();
    const wrong = { ...written, madeFolders: ['../x'] };
    await expect(writeJournal(target, wrong)).rejects.toThrow('wrong journal');
    expect(await readdir(target)).toEqual([]);
  });
});

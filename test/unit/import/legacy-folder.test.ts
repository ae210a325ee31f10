import { symlink, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { readLegacyFolder } from '../../../src/import/legacy-folder.js';
import { scratchFolders } from '../../support/scratch-folder.js';

const scratch = scratchFolders();

async function folderWith(...names: string[]): Promise<string> {
  const folder = await scratch();
  for (const name of names) await writeFile(join(folder, name), '');
  return folder;
}

async function chains(folder: string): Promise<string[][]> {
  return (await readLegacyFolder(folder)).map(({ files }) => files.map(({ name }) => name));
}

describe('a folder of the Python tools', () => {
  it.each([
    ['plain numbers', ['FULL-100', 'INC-200', 'INC-300']],
    ['the disk file in the name', ['FULL-100-disk1.qcow2', 'INC-200-disk1.qcow2', 'INC-300-disk1.qcow2']],
    ['a suffix', ['FULL-100.qcow2', 'INC-200.qcow2']],
    ['some with a suffix and some without', ['FULL-100', 'INC-200.qcow2', 'INC-300']],
    ['numbers of different length', ['FULL-99', 'INC-100', 'INC-1000', 'INC-20000']],
    ['FULL and INC of one second', ['FULL-100', 'INC-100', 'INC-101']],
  ])('is one chain: %s', async (_, names) => {
    expect(await chains(await folderWith(...names.toReversed(), 'uuid', 'disk1.config', 'notes.txt'))).toEqual([names]);
  });

  it('goes by the number, never by the time of a file', async () => {
    const folder = await folderWith('FULL-100', 'INC-200', 'INC-300');
    await utimes(join(folder, 'FULL-100'), 9e8, 9e8);
    await utimes(join(folder, 'INC-300'), 1, 1);
    expect(await chains(folder)).toEqual([['FULL-100', 'INC-200', 'INC-300']]);
  });

  it('has a chain for each FULL, and for each disk', async () => {
    const folder = await folderWith('FULL-100-a', 'FULL-100-b', 'INC-200-a', 'INC-200-b', 'FULL-300-a', 'INC-400-a');
    const found = await readLegacyFolder(folder);
    expect(found.map(({ disk, files }) => [disk, ...files.map(({ name }) => name)])).toEqual([
      ['a', 'FULL-100-a', 'INC-200-a'],
      ['a', 'FULL-300-a', 'INC-400-a'],
      ['b', 'FULL-100-b', 'INC-200-b'],
    ]);
    expect(found[0]?.files[1]).toEqual({ name: 'INC-200-a', path: join(folder, 'INC-200-a'), number: 200 });
  });

  it('ignores the rest of an increment that failed, and says so', async () => {
    const [chain] = await readLegacyFolder(await folderWith('FULL-100', 'INC-200.partial', 'INC-300'));
    expect(chain?.files.map(({ name }) => name)).toEqual(['FULL-100', 'INC-300']);
    expect(chain?.notes).toEqual([expect.stringContaining('INC-200.partial')]);
    expect(chain?.refused).toBeNull();
  });

  it('ends a chain at a FULL that failed: what came after builds on it', async () => {
    const [chain] = await readLegacyFolder(
      await folderWith('FULL-100', 'INC-200', 'FULL-300.partial', 'INC-400', 'INC-500'),
    );
    expect(chain?.files.map(({ name }) => name)).toEqual(['FULL-100', 'INC-200']);
    expect(chain?.refused).toBe('INC-400 builds on FULL-300.partial, which did not finish');
  });

  it('starts afresh with the next FULL', async () => {
    const found = await readLegacyFolder(
      await folderWith('INC-50', 'FULL-100', 'FULL-300.partial', 'INC-400', 'FULL-500', 'INC-600'),
    );
    expect(found.map(({ refused }) => refused)).toEqual([expect.any(String), null]);
    expect(found[0]?.notes[0]).toContain('INC-50 has no FULL before it');
    expect(found[1]?.files.map(({ name }) => name)).toEqual(['FULL-500', 'INC-600']);
  });

  it.each([
    ['increments without a FULL', ['INC-100', 'INC-200'], 'no FULL'],
    ['two files for one step', ['FULL-100', 'INC-200', 'INC-200.qcow2'], 'which one is meant'],
    ['two FULLs of one number', ['FULL-100', 'FULL-100.qcow2'], 'which one is meant'],
  ])('is refused with %s', async (_, names, why) => {
    await expect(readLegacyFolder(await folderWith(...names))).rejects.toMatchObject({
      code: 'unsafe',
      message: expect.stringContaining(why) as string,
    });
  });

  it('is refused with a link in the place of a backup', async () => {
    const folder = await folderWith('FULL-100');
    await symlink('/etc/passwd', join(folder, 'INC-200'));
    await expect(readLegacyFolder(folder)).rejects.toMatchObject({ code: 'unsafe' });
  });

  it('may hold nothing, and must be there', async () => {
    expect(await readLegacyFolder(await folderWith('uuid', 'FULL-100.config', 'FULL-x'))).toEqual([]);
    expect(await readLegacyFolder(await folderWith('FULL-100.partial'))).toEqual([]);
    await expect(readLegacyFolder('/nonexistent/folder')).rejects.toThrow('/nonexistent/folder');
  });
});

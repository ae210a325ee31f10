import { mkdir, readdir, stat, symlink, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { Catalog } from '../../../src/core/catalog.js';
import { readCatalog, requireCatalog, writeCatalog } from '../../../src/repository/catalog-file.js';
import { catalog, entry, point } from '../../support/builders.js';
import { scratchFolders } from '../../support/scratch-folder.js';

const scratch = scratchFolders();
const whole = catalog([point(0, [entry('vd1', 'FULL-1.qcow2')])]);

async function targetWith(text: string): Promise<string> {
  const target = await scratch();
  await writeFile(join(target, 'catalog.json'), text);
  return target;
}

function withDisk(change: Partial<Catalog['points'][number]['disks'][number]>): string {
  return JSON.stringify(catalog([point(0, [{ ...entry('vd1', 'FULL-1.qcow2'), ...change }])]));
}

describe('the catalog file', () => {
  it('is read back as written, only for its owner', async () => {
    const target = await scratch();
    await writeCatalog(target, whole);
    expect(await readCatalog(target)).toEqual(whole);
    expect((await stat(join(target, 'catalog.json'))).mode & 0o777).toBe(0o600);
    expect((await readdir(target)).toSorted()).toEqual(['catalog-copy-1.json', 'catalog.json']);
  });

  it('need not be there', async () => {
    const target = await scratch();
    expect(await readCatalog(target)).toBeUndefined();
    expect(await readCatalog(join(target, 'nothing'))).toBeUndefined();
    await expect(requireCatalog(target)).rejects.toMatchObject({
      code: 'no-catalog',
      message: expect.stringContaining(target) as string,
    });
  });

  it('that is looked for above targets names them, the newest months first of all', async () => {
    const root = await scratch();
    const months = ['2026-07', '2026-08', '2026-09', '2026-10'].map((month) => join(root, 'web1', month));
    for (const month of months) {
      await mkdir(month, { recursive: true });
      await writeCatalog(month, whole);
    }
    await expect(requireCatalog(root)).rejects.toMatchObject({
      code: 'no-catalog',
      hint: `Name one of the targets below it: ${months.slice(1).join(', ')}, and 1 more. With --monthly each month is one.`,
    });
  });

  it.each([
    ['text that is no JSON', '{"schema":1,', 'is damaged'],
    ['an empty file', '', 'is damaged'],
    ['another document', '[]', 'is damaged or was tampered with'],
    ['a disk that leads out', withDisk({ disk: '..' }), 'points.0.disks.0.disk'],
    ['a file that leads out', withDisk({ file: '../../etc/passwd' }), 'points.0.disks.0.file'],
    ['an absolute file', withDisk({ file: '/etc/passwd' }), 'points.0.disks.0.file'],
    ['a parent that leads out', withDisk({ parent: '../x' }), 'points.0.disks.0.parent'],
    ['a hidden file', withDisk({ file: '.lock' }), 'points.0.disks.0.file'],
  ])('is refused with %s', async (_, text, why) => {
    const target = await targetWith(text);
    await expect(readCatalog(target)).rejects.toMatchObject({
      code: 'unsafe',
      message: expect.stringMatching(new RegExp(`catalog\\.json .*${why}`, 's')) as string,
      hint: expect.any(String) as string,
    });
  });

  it('of a newer version says so', async () => {
    const target = await targetWith('{"schema":99}');
    await expect(readCatalog(target)).rejects.toMatchObject({
      code: 'unsafe',
      message: expect.stringContaining('newer qmpbackup') as string,
    });
  });

  it('is not followed when it is a link, nor waited for when it is no file', async () => {
    const elsewhere = await scratch();
    await writeCatalog(elsewhere, whole);
    const target = await scratch();
    await symlink(join(elsewhere, 'catalog.json'), join(target, 'catalog.json'));
    await expect(readCatalog(target)).rejects.toMatchObject({
      code: 'unsafe',
      message: expect.stringContaining('symbolic link') as string,
    });
    const folder = await scratch();
    await mkdir(join(folder, 'catalog.json'));
    await expect(readCatalog(folder)).rejects.toMatchObject({ code: 'unsafe' });
  });

  it('is not loaded when it is a monster', async () => {
    const target = await targetWith('');
    await truncate(join(target, 'catalog.json'), 2 ** 40);
    await expect(readCatalog(target)).rejects.toMatchObject({ code: 'unsafe' });
  });

  it('in a target that is a file is refused', async () => {
    const target = join(await scratch(), 'file');
    await writeFile(target, '');
    await expect(readCatalog(target)).rejects.toMatchObject({ code: 'unsafe' });
  });

  it('is not written in a shape that could not be read', async () => {
    const target = await scratch();
    await writeCatalog(target, whole);
    const wrong = { ...whole, targetId: 'x' };
    await expect(writeCatalog(target, wrong)).rejects.toThrow('wrong catalog');
    expect(await readCatalog(target)).toEqual(whole);
  });

  it.runIf(process.getuid?.() === 0)('belongs to whom the target belongs', async () => {
    const target = await scratch();
    const { chown } = await import('node:fs/promises');
    await chown(target, 65534, 65533);
    await writeCatalog(target, whole);
    expect(await stat(join(target, 'catalog.json'))).toMatchObject({ uid: 65534, gid: 65533 });
  });
});

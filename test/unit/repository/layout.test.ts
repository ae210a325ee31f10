import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  catalogPath,
  catalogsBelow,
  diskFolder,
  filePath,
  journalPath,
  monthFolder,
  partialPath,
  siblingMonths,
} from '../../../src/repository/layout.js';
import { scratchFolders } from '../../support/scratch-folder.js';

const scratch = scratchFolders();

async function month(root: string, name: string, catalog = true): Promise<string> {
  const folder = join(root, name);
  await mkdir(folder, { recursive: true });
  if (catalog) await writeFile(join(folder, 'catalog.json'), '{}');
  return folder;
}

describe('paths in a target', () => {
  it('are where the design says', () => {
    expect(catalogPath('/t')).toBe('/t/catalog.json');
    expect(journalPath('/t')).toBe('/t/run.json');
    expect(diskFolder('/t', 'ide0-hd0')).toBe('/t/ide0-hd0');
    expect(filePath('/t', 'vd1', 'FULL-1.qcow2')).toBe('/t/vd1/FULL-1.qcow2');
    expect(partialPath('/t', 'vd1', 'FULL-1.qcow2')).toBe('/t/vd1/FULL-1.qcow2.partial');
    expect(monthFolder('/t/web', '2026-11')).toBe('/t/web/2026-11');
  });

  it.each(['..', '.', '', 'a/b', '/etc', '../x', '.lock', 'a\0b', '-rf', 'a\nb', 'x'.repeat(256)])(
    'refuse the name %j',
    (name) => {
      expect(() => diskFolder('/t', name)).toThrow(expect.objectContaining({ code: 'unsafe' }) as Error);
      expect(() => filePath('/t', 'vd1', name)).toThrow('is not a plain file name');
      expect(() => partialPath('/t', name, 'FULL-1.qcow2')).toThrow('is not a plain file name');
    },
  );

  it('never lead outside, whatever the disk is called', () => {
    fc.assert(
      fc.property(fc.string(), (disk) => {
        let folder;
        try {
          folder = diskFolder('/t', disk);
        } catch {
          return;
        }
        expect(folder).toMatch(/^\/t\/[A-Za-z0-9_][^/]*$/);
      }),
    );
  });

  it.each(['2026', '2026-13', '2026-00', '../..', '2026-1'])('refuse the month %j', (text) => {
    expect(() => monthFolder('/t/web', text)).toThrow('is not a month');
  });
});

describe('siblingMonths', () => {
  it('finds older and newer months that hold a catalog', async () => {
    const root = await scratch();
    const here = await month(root, '2026-05');
    const newer = await month(root, '2026-11');
    const older = await month(root, '2025-12');
    await month(root, '2026-04', false);
    await month(root, 'notes');
    await writeFile(join(root, '2026-01'), 'a file');
    expect(await siblingMonths(here)).toEqual([older, newer]);
  });

  it('finds none beside a month whose folder is not there yet', async () => {
    expect(await siblingMonths(join(await scratch(), 'web', '2026-05'))).toEqual([]);
  });
});

describe('catalogsBelow', () => {
  it('finds the targets of --monthly, one and two levels down', async () => {
    const root = await scratch();
    const direct = await month(root, 'web');
    const monthly = await month(join(root, 'db'), '2026-05');
    await month(join(root, 'deep', 'er'), '2026-05');
    // Of a file system that is mounted there, and for root alone.
    await month(root, 'lost+found');
    expect(await catalogsBelow(root)).toEqual([monthly, direct]);
    expect(await catalogsBelow(join(root, 'nothing'))).toEqual([]);
  });
});

import { mkdir, rename, rm, stat, symlink, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { PointDisk } from '../../../src/core/point.js';
import { isUntouched } from '../../../src/repository/file-state.js';
import { entry } from '../../support/builders.js';
import { scratchFolders } from '../../support/scratch-folder.js';

const scratch = scratchFolders();

interface Line {
  readonly target: string;
  readonly folder: string;
  readonly files: readonly PointDisk[];
}

async function line(): Promise<Line> {
  const target = await scratch();
  const folder = join(target, 'vd1');
  await mkdir(folder);
  const files: PointDisk[] = [];
  for (const file of ['FULL-1.qcow2', 'INC-2.qcow2', 'INC-3.qcow2']) {
    await writeFile(join(folder, file), file);
    const { size, mtimeMs } = await stat(join(folder, file));
    files.push(entry('vd1', file, { size, mtimeMs, parent: files.at(-1)?.file ?? null }));
  }
  return { target, folder, files };
}

describe('a line of files', () => {
  it('is untouched as it was recorded', async () => {
    const { target, files } = await line();
    expect(await isUntouched(target, files)).toBe(true);
    expect(await isUntouched(target, files.slice(0, 1))).toBe(true);
  });

  it.each<[string, (line: Line) => Promise<unknown>]>([
    ['a file is missing', ({ folder }) => rm(join(folder, 'INC-2.qcow2'))],
    ['a file is longer', ({ folder }) => lengthen(join(folder, 'INC-2.qcow2'))],
    ['a file is newer', ({ folder }) => utimes(join(folder, 'INC-3.qcow2'), 1, 1)],
    ['a file is a link to itself elsewhere', ({ folder, target }) => linkAway(join(folder, 'FULL-1.qcow2'), target)],
    ['the folder is a link', ({ folder, target }) => linkAway(folder, target)],
    ['the folder is missing', ({ folder }) => rm(folder, { recursive: true })],
  ])('is touched when %s', async (_, touch) => {
    const found = await line();
    await touch(found);
    expect(await isUntouched(found.target, found.files)).toBe(false);
  });

  it('is touched when the catalog links its files in another order', async () => {
    const { target, files } = await line();
    expect(await isUntouched(target, files.slice(1))).toBe(false);
    expect(await isUntouched(target, [files[0]!, files[2]!])).toBe(false);
  });
});

async function lengthen(path: string): Promise<void> {
  const { atime, mtime } = await stat(path);
  await writeFile(path, 'x', { flag: 'a' });
  await utimes(path, atime, mtime);
}

async function linkAway(path: string, to: string): Promise<void> {
  const away = join(to, 'away');
  await rename(path, away);
  await symlink(away, path);
}

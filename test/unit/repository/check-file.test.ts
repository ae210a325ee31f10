import { createHash } from 'node:crypto';
import { mkdir, rm, stat, symlink, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { compareWithRecord } from '../../../src/core/file-record.js';
import type { PointDisk } from '../../../src/core/point.js';
import { whyAltered } from '../../../src/repository/check-file.js';
import { entry } from '../../support/builders.js';
import { scratchFolders } from '../../support/scratch-folder.js';

const scratch = scratchFolders();
const CONTENT = 'what was sealed';

async function sealed(): Promise<{ readonly path: string; readonly recorded: PointDisk }> {
  const path = join(await scratch(), 'INC-2.qcow2');
  await writeFile(path, CONTENT);
  const { size, mtimeMs } = await stat(path);
  const sha256 = createHash('sha256').update(CONTENT).digest('hex');
  return { path, recorded: entry('vd1', 'INC-2.qcow2', { size, mtimeMs, sha256 }) };
}

describe('a file and what was recorded of it', () => {
  it('are compared by size, then by time, where one was recorded', () => {
    const found = { size: 5, mtimeMs: 7 };
    expect(compareWithRecord(found, { size: 5, mtimeMs: 7 })).toEqual({ mtimeMs: 7, touched: false });
    expect(compareWithRecord(found, { size: 5, mtimeMs: 8 })).toEqual({ mtimeMs: 7, touched: true });
    expect(compareWithRecord(found, { size: 5 })).toEqual({ mtimeMs: 7, touched: false });
    expect(compareWithRecord(found, { size: 6, mtimeMs: 7 })).toEqual({
      code: 'other-size',
      why: 'it has 5 bytes, the catalog says 6',
    });
  });
});

describe('a file was altered', () => {
  it('never while it is as recorded, and then it is not read', async () => {
    const { path, recorded } = await sealed();
    let hashed = 0;
    const options = { onBytes: (count: number): void => void (hashed += count) };
    expect(await whyAltered(path, recorded, options)).toBeUndefined();
    expect(hashed).toBe(0);
    await utimes(path, 1, 1);
    expect(await whyAltered(path, recorded, options)).toBeUndefined();
    expect(hashed).toBe(CONTENT.length);
  });

  it.each<[string, string, (path: string) => Promise<unknown>]>([
    ['missing', 'when it is gone', (path) => rm(path)],
    ['other-size', 'when it is longer', (path) => writeFile(path, 'x', { flag: 'a' })],
    [
      'altered',
      'when it has another time and other bytes',
      async (path) => {
        await writeFile(path, CONTENT.toUpperCase());
        await utimes(path, 1, 1);
      },
    ],
    [
      'not-a-file',
      'when a link has its place',
      async (path) => {
        await rm(path);
        await symlink('/etc/passwd', path);
      },
    ],
    [
      'not-a-file',
      'when a folder has its place',
      async (path) => {
        await rm(path);
        await mkdir(path);
      },
    ],
  ])('(%s) %s', async (code, _, harm) => {
    const { path, recorded } = await sealed();
    await harm(path);
    expect(await whyAltered(path, recorded, {})).toMatchObject({ code });
  });

  it('when it was touched and no digest tells that it is the same', async () => {
    const { path, recorded } = await sealed();
    await utimes(path, 1, 1);
    expect(await whyAltered(path, { ...recorded, sha256: null }, {})).toMatchObject({
      code: 'altered',
      why: expect.stringContaining('no digest') as string,
    });
  });

  it('is not said of a comparison that was broken off: its reason is thrown', async () => {
    const { path, recorded } = await sealed();
    await utimes(path, 1, 1);
    const reason = new Error('stopped by hand');
    await expect(whyAltered(path, recorded, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  });
});

import { mkdir, mkdtemp, readdir, rm, utimes } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { sweepPrivateFolders } from '../../../src/storage-daemon/private-folder.js';

let folder = '';

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'qmplab-'));
  vi.stubEnv('TMPDIR', folder);
});

afterEach(async () => {
  vi.unstubAllEnvs();
  await rm(folder, { recursive: true });
});

/** As one looks between its making and that of its record, an hour ago by the clock. */
async function withoutRecord(name: string): Promise<void> {
  await mkdir(join(folder, name));
  const then = new Date(Date.now() - 3_600_000);
  await utimes(join(folder, name), then, then);
}

it('sweeps a folder without a record when its maker is dead, never that of a living one', async () => {
  await withoutRecord('qmpbackup-open-4194305-aaaaaa');
  await withoutRecord('qmpbackup-open-oldone');
  await withoutRecord(`qmpbackup-open-${process.pid}-bbbbbb`);
  await sweepPrivateFolders();
  expect(await readdir(folder)).toEqual([`qmpbackup-open-${process.pid}-bbbbbb`]);
});

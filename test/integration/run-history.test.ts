import { readdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, expect, it, vi } from 'vitest';
import { readHistory, writeHistory } from '../../src/run/history.js';
import { labDir } from '../support/scenario.js';

// Where what is remembered of runs cannot be kept, or is not what it should be: that is said at once, and nothing is waited for.

const CONFIG = '/etc/qmpbackup/config.yaml';
const EMPTY = { schema: 1, config: CONFIG, vms: [] } as const;

afterEach(() => vi.unstubAllEnvs());

it('is refused in a folder that takes none, behind a link to nothing, and in the place of a file', async () => {
  const dir = await labDir();
  await symlink(join(dir, 'nowhere'), join(dir, 'link'));
  await writeFile(join(dir, 'file'), '');
  for (const state of ['/proc', join(dir, 'link'), join(dir, 'file')]) {
    vi.stubEnv('STATE_DIRECTORY', state);
    await expect(writeHistory(EMPTY)).rejects.toThrow(/the folder .* cannot be made/);
  }
});

it('is begun anew where it is damaged, and says so', async () => {
  const dir = await labDir();
  vi.stubEnv('STATE_DIRECTORY', dir);
  await writeHistory(EMPTY);
  expect(await readHistory(CONFIG)).toEqual({ history: EMPTY, lost: null });
  const [folder = ''] = await readdir(dir);
  await writeFile(join(dir, folder, 'history.json'), '{"schema":1,');
  expect((await readHistory(CONFIG)).lost).toMatch(/is damaged/);
  await writeFile(join(dir, folder, 'history.json'), '{"schema":9}');
  expect((await readHistory(CONFIG)).lost).toMatch(/of another version/);
});

import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { journalValue } from '../../../src/core/journal.js';
import { vmFolder } from '../../../src/repository/vm-folder.js';
import { catalog, journal } from '../../support/builders.js';
import { scratchFolders } from '../../support/scratch-folder.js';

const scratch = scratchFolders();

async function month(root: string, path: string, files: Readonly<Record<string, unknown>>): Promise<void> {
  await mkdir(join(root, path), { recursive: true });
  for (const [name, value] of Object.entries(files)) {
    await writeFile(join(root, path, name), typeof value === 'string' ? value : JSON.stringify(value));
  }
}

const of = (name: string) => ({ 'catalog.json': catalog([], { vm: { uuid: 'u1', name, label: null } }) });

it('has the name of the VM, which need not be there yet', async () => {
  const root = await scratch();
  expect(await vmFolder(root, 'web')).toBe(join(root, 'web'));
  expect(await vmFolder(root, 'サーバ')).toBe(join(root, 'サーバ'));
});

it('is the one of an earlier version for the VM whose it is, and for no other', async () => {
  const root = await scratch();
  await month(root, '___/2026-09', of('計算機'));
  await month(root, '___/2026-10', of('サーバ'));
  await month(root, '___/notes', of('計算機'));
  expect(await vmFolder(root, 'サーバ')).toBe(join(root, '___'));
  expect(await vmFolder(root, '計算機')).toBe(join(root, '計算機'));
  await month(root, 'a_b/2026-10', of('a/b'));
  expect(await vmFolder(root, 'a/b')).toBe(join(root, 'a_b'));
  expect(await vmFolder(root, 'a?b')).toMatch(/\/a_b-[0-9a-f]{8}$/);
});

it('is known by --vm-name, by a UUID that stands for a name, and by a run that died first', async () => {
  const root = await scratch();
  const ofDead = journal('a', [], { vm: { uuid: null, name: 'x', label: '例え' } });
  await month(root, '__/2026-10', { 'run.json': journalValue(ofDead) });
  expect(await vmFolder(root, '例え')).toBe(join(root, '__'));
});

it('passes over months that tell nothing', async () => {
  const root = await scratch();
  await month(root, '__/2026-09', of('例え'));
  await month(root, '__/2026-10', { 'catalog.json': 'no JSON' });
  await month(root, '__/2026-11', {});
  expect(await vmFolder(root, '例え')).toBe(join(root, '__'));
});

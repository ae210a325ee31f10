/** The script that keeps the rooms of `src` in order, on sources in which something is wrong. */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { execa } from 'execa';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

let root: string;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'import-graph-'));
});
afterEach(() => rm(root, { recursive: true, force: true }));

async function check(files: Readonly<Record<string, string>>): Promise<{ code: number | undefined; said: string }> {
  for (const [path, text] of Object.entries(files)) {
    await mkdir(dirname(join(root, path)), { recursive: true });
    await writeFile(join(root, path), text);
  }
  const { exitCode, stderr } = await execa('node', ['scripts/import-graph.js', '--root', root], { reject: false });
  return { code: exitCode, said: stderr };
}

describe('import-graph', () => {
  it('finds nothing in what goes one way', async () => {
    const fine = {
      'errors.ts': `export const why = '';`,
      'core/a.ts': `import { why } from '../errors.js';\nexport const a = why;`,
      'operations/backup/b.ts': `import { a } from '../../core/a.js';\nexport const b = a;`,
    };
    expect(await check(fine)).toEqual({ code: 0, said: '' });
  });

  it.each([
    ['a type', `import type { B } from '../backends/qmp/b.js';\nexport type A = B;`],
    ['a dynamic import', `export const a = () => import('../backends/qmp/b.js');`],
    ['a type that is imported in place', `export type A = import('../backends/qmp/b.js').B;`],
    ['a re-export', `export * from '../backends/qmp/b.js';`],
  ])('finds %s that goes up', async (_, text) => {
    const { code, said } = await check({ 'core/a.ts': text, 'backends/qmp/b.ts': 'export type B = 1;' });
    expect(code).toBe(1);
    expect(said).toContain('core/a.ts imports backends/qmp/b.ts: core may import only errors');
  });

  it('finds a backend that imports another, and an operation that imports another', async () => {
    const { code, said } = await check({
      'backends/qmp/a.ts': `import '../libvirt/b.js';`,
      'backends/libvirt/b.ts': '',
      'operations/restore/a.ts': `import '../backup/b.js';`,
      'operations/backup/b.ts': '',
    });
    expect(code).toBe(1);
    expect(said).toContain('backends/qmp/a.ts imports backends/libvirt/b.ts');
    expect(said).toContain('operations/restore/a.ts imports operations/backup/b.ts');
  });

  it('finds files that import each other, types included', async () => {
    const { code, said } = await check({
      'core/a.ts': `import type { B } from './b.js';\nexport type A = B;`,
      'core/b.ts': `import type { C } from './c.js';\nexport type B = C;`,
      'core/c.ts': `import type { A } from './a.js';\nexport type C = A[];`,
    });
    expect(code).toBe(1);
    expect(said).toContain('a circle: core/a.ts → core/b.ts → core/c.ts');
  });

  it('finds a name that two files export', async () => {
    const { code, said } = await check({
      'core/a.ts': 'export interface Same {}\nexport const own = 1;',
      'host/b.ts': 'const own = 2;\nexport type Same = typeof own;',
    });
    expect(code).toBe(1);
    expect(said).toBe('Same is exported by each of core/a.ts, host/b.ts');
  });

  it('finds a file in no room', async () => {
    const { code, said } = await check({ 'elsewhere/a.ts': `import '../core/b.js';`, 'core/b.ts': '' });
    expect(code).toBe(1);
    expect(said).toContain('elsewhere/a.ts is in no room');
  });
});

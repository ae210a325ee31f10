import { cp, readdir, readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { execa } from 'execa';
import { beforeAll, expect, it } from 'vitest';
import { built, ensureBuilt } from '../support/built.js';
import { PROGRAM } from '../support/cli.js';
import { projectRoot, withTemporaryDir } from '../support/lab/programs.js';

// What users run is one file, and one for each guard, with all packages in it.

beforeAll(ensureBuilt, 180_000);

/** Arguments for node: does `script` before the program begins. */
function after(script: string): readonly string[] {
  return ['--import', `data:text/javascript,${encodeURIComponent(script)}`, PROGRAM];
}

it('runs where no package is installed', async () => {
  await withTemporaryDir(async (dir) => {
    for (const part of ['bin', join('dist', 'bundle'), 'package.json']) {
      await cp(join(projectRoot(), part), join(dir, part), { recursive: true });
    }
    const { version } = JSON.parse(await readFile(join(dir, 'package.json'), 'utf8')) as { version: string };
    const { stdout } = await execa(process.execPath, [join(dir, 'bin', basename(PROGRAM)), '--version']);
    expect(stdout).toBe(version);
  });
});

it('is text that V8 keeps in one byte a character', async () => {
  const text = await readFile(await built('bundle/program.js'), 'utf8');
  expect([...text].find((character) => character > '\u00ff')).toBeUndefined();
});

it('has each guard beside it, for it looks for them there', async () => {
  const guards = (await readdir(join(projectRoot(), 'src', 'guards'))).filter((file) => file.endsWith('-main.ts'));
  const there = await readdir(await built('bundle'));
  expect(guards.length).toBeGreaterThan(0);
  expect(there).toEqual(expect.arrayContaining(guards.map((file) => file.replace(/ts$/, 'js'))));
});

it('has the licence of each package that is in it', async () => {
  const folder = await built('bundle');
  const maps = (await readdir(folder)).filter((file) => file.endsWith('.map'));
  const texts = await Promise.all(maps.map((file) => readFile(join(folder, file), 'utf8')));
  const sources = texts.flatMap((text) => (JSON.parse(text) as { readonly sources: readonly string[] }).sources);
  const packages = new Set(sources.flatMap((file) => /.*node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(file)?.[1] ?? []));
  const licences = await readFile(await built('bundle/LICENSES'), 'utf8');
  expect(packages).toContain('commander');
  for (const name of packages) expect(licences).toMatch(new RegExp(`^${name} \\d.* \\(\\S+\\)$`, 'm'));
});

it('tells the places of an unexpected error as those of its sources', async () => {
  const breaking = "String.prototype.trim = () => { throw new TypeError('broken') };";
  const { exitCode, stderr } = await execa(process.execPath, [...after(breaking), '--domain', 'any', 'info'], {
    reject: false,
  });
  expect(exitCode).toBe(1);
  const source = await readFile(join(projectRoot(), 'src', 'backends', 'vm-options.ts'), 'utf8');
  const line = source.split('\n').findIndex((text) => text.includes('domain.trim()')) + 1;
  expect(stderr).toContain(`(src/backends/vm-options.ts:${line}:`);
});

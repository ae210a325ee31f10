import { cp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { basename, join } from 'node:path';
import { execa } from 'execa';
import { beforeAll, expect, it } from 'vitest';
import type * as Shipped from '../../src/cli/shipped-program.js';
import { built, ensureBuilt } from '../support/built.js';
import { PROGRAM } from '../support/cli.js';
import { projectRoot, withTemporaryDir } from '../support/lab/programs.js';

// What users run is a few files, and one for each guard, with all packages in them.

const RUNNER = 'shipped-program.cjs';

beforeAll(ensureBuilt, 180_000);

/** Arguments for node: does `script` before the program begins. */
function after(script: string): readonly string[] {
  return ['--import', `data:text/javascript,${encodeURIComponent(script)}`, PROGRAM];
}

async function copyProgram(dir: string): Promise<void> {
  for (const part of ['bin', join('dist', 'bundle'), 'package.json']) {
    await cp(join(projectRoot(), part), join(dir, part), { recursive: true });
  }
}

it('runs where no package is installed', async () => {
  await withTemporaryDir(async (dir) => {
    await copyProgram(dir);
    const { version } = JSON.parse(await readFile(join(dir, 'package.json'), 'utf8')) as { version: string };
    const { stdout } = await execa(process.execPath, [join(dir, 'bin', basename(PROGRAM)), '--version']);
    expect(stdout).toBe(version);
  });
});

it('is text that V8 keeps in one byte a character', async () => {
  const text = await readFile(await built('bundle/main.cjs'), 'utf8');
  expect([...text].find((character) => character > '\u00ff')).toBeUndefined();
});

it('has the code that this V8 makes of each file, and takes it', async () => {
  const folder = await built('bundle');
  const { scriptOf } = shippedIn(folder);
  const files = (await readdir(folder)).filter((file) => file.endsWith('.cjs') && file !== RUNNER);
  expect(files.length).toBeGreaterThan(3);
  for (const file of files) expect([file, scriptOf(join(folder, file)).cachedDataRejected]).toEqual([file, false]);
});

it('runs by its text without code, and where that is of another V8, of other flags, of another text or damaged', async () => {
  await withTemporaryDir(async (dir) => {
    await copyProgram(dir);
    const text = join(dir, 'dist', 'bundle', 'main.cjs');
    const code = `${text}.code`;
    const whole = await readFile(code);
    const { keptCode } = shippedIn(join(projectRoot(), 'dist', 'bundle'));
    const starts = async (...flags: string[]): Promise<string> => {
      const program = join(dir, 'bin', basename(PROGRAM));
      return (await execa(process.execPath, [...flags, program, '--domain', '', 'info'], { reject: false })).stderr;
    };
    const said = await starts();
    expect(said).toContain('--domain');
    expect(await starts('--no-opt')).toBe(said);
    // V8's own sum over its version is what the code begins with, after a mark.
    const otherVersion = Buffer.from(whole.subarray(0, -4));
    otherVersion.writeUInt32LE(1, 4);
    const damaged = Buffer.from(whole);
    damaged[whole.length >> 1]! ^= 0x10;
    for (const bytes of [keptCode(text, otherVersion), damaged, whole.subarray(0, 5000), Buffer.alloc(3), undefined]) {
      await (bytes ? writeFile(code, bytes) : rm(code));
      expect(await starts()).toBe(said);
    }
    await writeFile(code, whole);
    const other = (await readFile(text, 'latin1')).replaceAll('has an empty value', 'has a hollow value');
    await writeFile(text, other, 'latin1');
    expect(await starts()).not.toBe(said);
  });
});

function shippedIn(folder: string): typeof Shipped {
  return createRequire(import.meta.url)(join(folder, RUNNER)) as typeof Shipped;
}

it('has its text read as UTF-8', async () => {
  await withTemporaryDir(async (dir) => {
    await copyProgram(dir);
    const folder = join(dir, 'dist', 'bundle');
    await writeFile(join(folder, 'mark.cjs'), "exports.mark = 'U\u00aa';\n");
    const { runShipped } = shippedIn(folder);
    expect(runShipped('mark.cjs')).toEqual({ mark: 'U\xaa' });
  });
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

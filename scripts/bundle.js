import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, resolve, sep } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { rolldown } from 'rolldown';

/**
 * Makes one file of the program, and one of each that it starts as a process or thread of its own (guards, makers of pages), packages
 * included: what users run (docs/decisions/0001). All lie in one folder, where they find each other. The files of the program are scripts, each with the code that V8 makes of it.
 * Works in the current folder.
 */
const FOLDER = join('dist', 'bundle');
const HELPERS = [join('src', 'guards'), join('src', 'report', 'html')];
const MAIN = join('src', 'cli', 'main.ts');
const RUNNER = join('src', 'cli', 'shipped-program.ts');
const programs = [
  MAIN,
  RUNNER,
  ...HELPERS.flatMap((folder) =>
    readdirSync(folder)
      .filter((file) => file.endsWith('-main.ts'))
      .map((file) => join(folder, file)),
  ),
];

/** What it starts is one file. Of the program an increment over QMP reads `program.cjs`, not what is imported for another verb or a domain. */
const GROUPS = [
  { name: 'program', tags: ['$initial'] },
  { name: 'domain', test: /backends.libvirt/ },
];

rmSync(FOLDER, { recursive: true, force: true });
const modules = new Set();
for (const input of programs) {
  const isMain = input === MAIN;
  // A script starts without the loader of modules: 8 million instructions less.
  const isScript = isMain || input === RUNNER;
  const bundle = await rolldown({ input, platform: 'node' });
  const { output } = await bundle.write({
    dir: FOLDER,
    entryFileNames: isScript ? '[name].cjs' : '[name].js',
    chunkFileNames: '[name].cjs',
    format: isScript ? 'cjs' : 'esm',
    codeSplitting: isMain && { groups: GROUPS },
    // Half as much to parse, 9 ms of each start. Functions and classes keep their names, for stacks and for what errors are called.
    minify: { compress: true, mangle: { keepNames: true }, codegen: { removeWhitespace: true } },
    sourcemap: true,
    sourcemapExcludeSources: true,
  });
  for (const part of output) if (part.type === 'chunk') for (const id of part.moduleIds) modules.add(id);
  await bundle.close();
}
writeFileSync(join(FOLDER, 'LICENSES'), licencesOf(modules));
await keepCode();

/** Of whole files: left to itself V8 compiles a function when it is first called. */
async function keepCode() {
  const runner = resolve(FOLDER, 'shipped-program.cjs');
  const { codeFile, keptCode, scriptOf } = createRequire(import.meta.url)(runner);
  const files = readdirSync(FOLDER).map((file) => resolve(FOLDER, file));
  for (const path of files.filter((each) => each.endsWith('.cjs') && each !== runner)) {
    setFlagsFromString('--no-lazy');
    const script = scriptOf(path);
    // Code is of the flags that V8 has when it is written.
    setFlagsFromString('--lazy');
    writeFileSync(codeFile(path), keptCode(path, script.createCachedData()));
  }
}

/** What the licences of packages ask for, where they are copied. @param {Set<string>} ids @returns {string} */
function licencesOf(ids) {
  const folders = new Set([...ids].flatMap((id) => packageFolder(id) ?? []));
  return [...folders].toSorted().map(licenceOf).join('\n');
}

/** @param {string} id of a module @returns {string | null} */
function packageFolder(id) {
  const marker = `${sep}node_modules${sep}`;
  if (!id.includes(marker)) return null;
  for (let folder = dirname(id); !folder.endsWith(marker.slice(0, -1)); folder = dirname(folder)) {
    const file = join(folder, 'package.json');
    if (existsSync(file) && JSON.parse(readFileSync(file, 'utf8')).name !== undefined) return folder;
  }
  throw new Error(`${id} belongs to no package`);
}

/** @param {string} folder @returns {string} */
function licenceOf(folder) {
  const { name, version, license, author } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
  const file = readdirSync(folder).find((each) => /^licen[cs]e/i.test(each));
  const words = file === undefined ? `by ${author?.name ?? author}` : readFileSync(join(folder, file), 'utf8').trim();
  return `${name} ${version} (${license})\n\n${words}\n\n${'-'.repeat(80)}\n`;
}

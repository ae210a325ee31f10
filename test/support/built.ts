/**
 * The built program, for tests of what runs as a process of its own. Builds only if a source is newer than the last
 * build, and one test file at a time: the others wait for its lock.
 */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rename, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { patient } from './patience.js';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const DIST = join(ROOT, 'dist');
const LOCK = join(ROOT, '.cache', 'build.lock');
/** What a build writes last, `npm run build` too. */
const STAMP = join(DIST, 'bundle', 'LICENSES');
const BUILD_MS = patient(120_000);

/** The path of a file in `dist`, which is up to date. */
export async function built(file: string): Promise<string> {
  await ensureBuilt();
  return join(DIST, file);
}

export async function ensureBuilt(): Promise<void> {
  if (await isCurrent()) return;
  const unlock = await lock();
  try {
    if (!(await isCurrent())) await build();
  } finally {
    await unlock();
  }
}

async function build(): Promise<void> {
  // What is changed meanwhile is newer than this.
  const startedAt = new Date();
  await run(join('node_modules', 'typescript', 'bin', 'tsc'), '-p', 'tsconfig.json');
  await run(join('scripts', 'bundle.js'));
  await utimes(STAMP, startedAt, startedAt);
}

async function run(...command: readonly string[]): Promise<void> {
  try {
    await promisify(execFile)(process.execPath, command, { cwd: ROOT, timeout: BUILD_MS });
  } catch (cause) {
    const { stdout = '', stderr = '' } = cause as { readonly stdout?: string; readonly stderr?: string };
    throw new Error(`the build failed:\n${stdout}${stderr}`, { cause });
  }
}

async function isCurrent(): Promise<boolean> {
  if (!existsSync(STAMP)) return false;
  const { mtimeMs } = await stat(STAMP);
  const files = await readdir(join(ROOT, 'src'), { recursive: true });
  const sources = [
    ...files.map((file) => join('src', file)),
    'tsconfig.json',
    'package.json',
    join('scripts', 'bundle.js'),
  ];
  for (const source of sources) {
    const seen = await stat(join(ROOT, source));
    if (seen.mtimeMs > mtimeMs) return false;
  }
  return true;
}

/** A folder is made by one process only. It holds the owner's pid, so that a dead owner does not hold up the rest. */
async function lock(): Promise<() => Promise<void>> {
  await mkdir(join(ROOT, '.cache'), { recursive: true });
  const until = Date.now() + BUILD_MS;
  for (;;) {
    const prepared = `${LOCK}.${process.pid}`;
    await mkdir(prepared, { recursive: true });
    await writeFile(join(prepared, 'pid'), String(process.pid));
    try {
      // Onto a folder that is not empty this fails, so there is no moment at which the lock has no owner.
      await rename(prepared, LOCK);
      return () => rm(LOCK, { recursive: true });
    } catch (error) {
      await rm(prepared, { recursive: true });
      if (Date.now() > until) throw new Error(`${LOCK} is held by another test run`, { cause: error });
    }
    if (await ownerIsDead()) await rm(LOCK, { recursive: true, force: true });
    await sleep(100);
  }
}

async function ownerIsDead(): Promise<boolean> {
  try {
    const pid = Number(await readFile(join(LOCK, 'pid'), 'utf8'));
    process.kill(pid, 0);
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ESRCH';
  }
}

/**
 * Real backup chains without a VM: images made by qemu-img and qemu-io, the catalog that a backup would have written,
 * and beside them, out of reach of what is tested, a flat copy of the disk at each point.
 */
import { cp, mkdir, mkdtemp, open, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import type { Catalog } from '../../src/core/catalog.js';
import type { Level } from '../../src/core/level.js';
import type { Point, PointDisk } from '../../src/core/point.js';
import { QmpBackupError } from '../../src/errors.js';
import { writeCatalog } from '../../src/repository/catalog-file.js';
import { digestByPieces, sha256File } from '../../src/repository/digest.js';
import { fileState } from '../../src/repository/file-state.js';
import { replacePieceList } from '../../src/repository/piece-list.js';
import { catalog, entry, MiB, point } from './builders.js';
import { run } from './lab/programs.js';
import { afterTest } from './scenario.js';

export interface Step {
  readonly file: string;
  /** The file that this one builds on; undefined for a FULL. */
  readonly on?: string;
  /** MiB; default 16. */
  readonly size?: number;
  /** Commands of qemu-io. */
  readonly io: readonly string[];
}

export interface Lab {
  readonly root: string;
  readonly target: string;
  readonly folder: (disk: string) => string;
  /** The flat copy of the disk as of this file. */
  readonly flat: (disk: string, file: string) => string;
  readonly remove: () => Promise<void>;
}

export async function makeLab(): Promise<Lab> {
  const root = await mkdtemp(join(tmpdir(), 'qmpchain-'));
  return labAt(root);
}

/** The lab is taken away after the test, if the test has not done so. */
function labAt(root: string): Lab {
  const lab = labIn(root);
  afterTest(lab.remove);
  return lab;
}

/** For who takes it away by himself. */
export function labIn(root: string): Lab {
  const target = join(root, 'target');
  return {
    root,
    target,
    folder: (disk) => join(target, disk),
    flat: (disk, file) => join(root, 'flat', disk, `${file}.raw`),
    remove: () => rm(root, { recursive: true, force: true }),
  };
}

/** The same lab again, times of files included, for one more run that begins the same way. */
export async function copyLab(lab: Lab): Promise<Lab> {
  const root = await mkdtemp(join(tmpdir(), 'qmpchain-'));
  await cp(lab.root, root, { recursive: true, preserveTimestamps: true });
  return labAt(root);
}

/** Makes the files of one disk in order; returns their entries. */
export async function makeDisk(lab: Lab, disk: string, steps: readonly Step[]): Promise<readonly PointDisk[]> {
  const folder = lab.folder(disk);
  await mkdir(folder, { recursive: true });
  await mkdir(dirname(lab.flat(disk, 'x')), { recursive: true });
  const entries: PointDisk[] = [];
  for (const { file, on, size = 16, io } of steps) {
    const path = join(folder, file);
    const link = on === undefined ? [] : ['-F', 'qcow2', '-b', on];
    await run('qemu-img', ['create', '-q', '-u', '-f', 'qcow2', ...link, path, String(size * MiB)]);
    if (io.length > 0) await run('qemu-io', ['-f', 'qcow2', ...io.flatMap((command) => ['-c', command]), path]);
    await run('qemu-img', ['convert', '-O', 'raw', path, lab.flat(disk, file)]);
    entries.push(await describe(lab, disk, { file, parent: on ?? null, virtualSize: size * MiB }));
  }
  return entries;
}

/** An entry that fits the file as it is; a FULL has the digest of earlier versions. */
export async function describe(
  lab: Lab,
  disk: string,
  known: Pick<PointDisk, 'file' | 'parent' | 'virtualSize'>,
): Promise<PointDisk> {
  const path = join(lab.folder(disk), known.file);
  const state = await fileState(path);
  if (!state) throw new Error(`${path} was not made`);
  if (known.parent === null) return entry(disk, known.file, { ...known, ...state, sha256: await sha256File(path) });
  const { pieces } = await digestByPieces(path, 'gmac');
  return entry(disk, known.file, { ...known, ...state, sha256: null, pieces });
}

/** The entry with the list of its pieces beside the file, as a backup writes it. */
export async function withPieceList(lab: Lab, entry: PointDisk): Promise<PointDisk> {
  const path = join(lab.folder(entry.disk), entry.file);
  const digest = await digestByPieces(path, 'gmac');
  await replacePieceList(path, digest);
  return { ...(await describe(lab, entry.disk, entry)), sha256: null, pieces: digest.pieces };
}

/** One point per file, all disks side by side. */
export function pointsOf(...disks: (readonly PointDisk[])[]): Point[] {
  const count = Math.max(...disks.map(({ length }) => length));
  return Array.from({ length: count }, (_, number) => {
    const entries = disks.flatMap((each) => each.slice(number, number + 1));
    return point(number, entries, { level: levelOf(entries) });
  });
}

function levelOf(entries: readonly PointDisk[]): Level {
  return entries.every(({ level }) => level === 'full') ? 'full' : (entries[0]?.level ?? 'inc');
}

export async function record(lab: Lab, points: Point[]): Promise<Catalog> {
  const value = catalog(points);
  await writeCatalog(lab.target, value);
  return value;
}

/** Throws unless the chain that ends with `path` holds the same bytes as the flat copy. */
export async function expectSame(path: string, flat: string): Promise<void> {
  const { exitCode, stdout } = await run('qemu-img', ['compare', '-F', 'raw', path, flat], { allowed: [0, 1] });
  if (exitCode !== 0) throw new Error(`${path} is not ${flat}: ${stdout}`);
  const info = JSON.parse((await run('qemu-img', ['info', '--output=json', path])).stdout) as Record<string, unknown>;
  const expected = (await fileState(flat))?.size;
  if (info['virtual-size'] !== expected) throw new Error(`${path}: ${String(info['virtual-size'])} is not ${expected}`);
}

/** Name, size, time and digest of every file below, to see that nothing changed. Locks that were let go do not count. */
export async function photograph(folder: string): Promise<Record<string, string>> {
  const photo: Record<string, string> = {};
  for (const each of await readdir(folder, { withFileTypes: true, recursive: true })) {
    const path = join(each.parentPath, each.name);
    if (each.isDirectory()) continue;
    const state = each.isFile() ? await fileState(path) : undefined;
    const digest = each.isFile() ? await sha256File(path) : 'no file';
    photo[path.slice(folder.length + 1)] = `${state?.size} ${state?.mtimeMs} ${digest}`;
  }
  return photo;
}

export async function filesIn(folder: string): Promise<readonly string[]> {
  return (await readdir(folder)).toSorted();
}

/** Another byte, near the end of the file unless told where, with its times as before: as a faulty disk does it. */
export async function rot(image: string, at?: number): Promise<void> {
  const times = `${image}.times`;
  await run('cp', ['--attributes-only', '--preserve=timestamps', image, times]);
  const { size } = await stat(image);
  const handle = await open(image, 'r+');
  await handle.write(Buffer.from([0x55]), 0, 1, at ?? size - 100);
  await handle.close();
  await run('touch', ['--reference', times, image]);
  await rm(times);
}

/** What a promise is rejected with; fails the test when it is not, or with something else than our error. */
export async function refusal(promise: Promise<unknown>): Promise<QmpBackupError> {
  const outcome = await promise.then(
    (value) => ({ value }),
    (error: unknown) => ({ error }),
  );
  if ('value' in outcome) throw new Error(`it was not refused: ${JSON.stringify(outcome.value)}`);
  if (!(outcome.error instanceof QmpBackupError)) throw outcome.error;
  return outcome.error;
}

/** A program of that name, a shell script, comes first in PATH. */
export async function fakeProgram(lab: Lab, name: string, script: string): Promise<{ readonly restore: () => void }> {
  const bin = join(lab.root, 'bin');
  await mkdir(bin, { recursive: true });
  await writeFile(join(bin, name), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  const before = process.env.PATH;
  process.env.PATH = `${bin}:${before}`;
  const restore = (): void => {
    process.env.PATH = before;
  };
  afterTest(() => Promise.resolve(restore()));
  return { restore };
}

/** A program named qemu-img that only notes that it was called; `calls` are its arguments so far. */
export async function fakeQemuImg(lab: Lab): Promise<{ readonly calls: () => Promise<string>; restore(): void }> {
  const log = join(lab.root, 'calls');
  await writeFile(log, '');
  const { restore } = await fakeProgram(lab, 'qemu-img', `echo "$@" >> ${log}\nexit 1`);
  return { calls: () => readFile(log, 'utf8'), restore };
}

import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { PointDisk } from '../../src/core/point.js';
import { writeCatalog } from '../../src/repository/catalog-file.js';
import { digestByPieces } from '../../src/repository/digest.js';
import { fileState } from '../../src/repository/file-state.js';
import { catalog, entry, MiB, point } from './builders.js';
import { run } from './lab/programs.js';

/** A disk of 16 MiB with as many files as are asked for, made without a VM: an hour of backups in some seconds. */
export interface LongChain {
  /** Absolute, FULL first. */
  readonly paths: readonly string[];
  /** A raw copy of the disk as of the last. */
  readonly flat: string;
}

export const LONG_DISK = 'd1';
export const LONG_SIZE = 16 * MiB;

export interface LongChainOptions {
  /** Bytes. */
  readonly size?: number;
  /** So many files apart the disk is written to; the files between hold nothing. */
  readonly writtenEvery?: number;
}

const CLUSTER = 65_536;

/** In `<root>/target/d1` and `<root>/all.raw`: the links are written into copies of one header. */
export async function makeLongChain(
  root: string,
  files: number,
  { size = LONG_SIZE, writtenEvery = 100 }: LongChainOptions = {},
): Promise<LongChain> {
  const folder = join(root, 'target', LONG_DISK);
  await mkdir(folder, { recursive: true });
  const name = (index: number): string => `${index === 0 ? 'FULL' : 'INC-'}-${10_000 + index}.qcow2`.replace('--', '-');
  const paths = Array.from({ length: files }, (_, index) => join(folder, name(index)));
  const flat = join(root, 'all.raw');
  const create = ['create', '-q', '-u', '-f', 'qcow2'];
  await run('qemu-img', [...create, join(folder, name(0)), String(size)]);
  await run('qemu-img', [...create, '-F', 'qcow2', '-b', name(0), join(folder, name(1)), String(size)]);
  await run('qemu-img', ['create', '-q', '-f', 'raw', flat, String(size)]);
  const empty = await readFile(join(folder, name(1)), 'latin1');
  for (const [index, path] of paths.entries())
    if (index > 1) await writeFile(path, linked(empty, name, index), 'latin1');
  await write(paths[0] ?? '', flat, ['write -P 7 0 1M']);
  const turns = Array.from({ length: Math.ceil(files / writtenEvery) }, (_, turn) => turn * writtenEvery + 1);
  for (const index of new Set([...turns, files - 1].filter((each) => each > 0 && each < files))) {
    // Each has a cluster of its own, and one that the next one hides.
    const own = 2 * MiB + (index % 200) * CLUSTER;
    await write(paths[index] ?? '', flat, [
      `write -P ${1 + (index % 250)} ${own} ${CLUSTER}`,
      `write -P ${1 + (index % 249)} 64k 64k`,
    ]);
  }
  return { paths, flat };
}

/** The header of the second file, with a link to the one before. All names but the FULL's are of one length. */
function linked(header: string, name: (index: number) => string, index: number): string {
  const [from, to] = [name(0), name(index - 1)];
  const at = header.indexOf(from);
  // The length of a name is in the header, and this one may be shorter.
  const shorter = header.slice(0, 16) + lengthOf(to.length) + header.slice(20);
  return (
    shorter.slice(0, at) +
    to +
    '\0'.repeat(Math.max(0, from.length - to.length)) +
    shorter.slice(at + Math.max(from.length, to.length))
  );
}

function lengthOf(bytes: number): string {
  const field = Buffer.alloc(4);
  field.writeUInt32BE(bytes);
  return field.toString('latin1');
}

async function write(image: string, flat: string, commands: readonly string[]): Promise<void> {
  const io = commands.flatMap((command) => ['-c', command]);
  const node = { driver: 'qcow2', file: { driver: 'file', filename: image }, backing: null };
  await run('qemu-io', [...io, `json:${JSON.stringify(node)}`]);
  await run('qemu-io', [...io, '-f', 'raw', flat]);
}

/** The same with a catalog: every file is a point of `<root>/target`. */
export async function makeLongTarget(root: string, files: number, options: LongChainOptions = {}): Promise<LongChain> {
  const chain = await makeLongChain(root, files, options);
  const { size = LONG_SIZE } = options;
  const entries: PointDisk[] = [];
  for (const path of chain.paths) {
    const state = await fileState(path);
    if (!state) throw new Error(`${path} was not made`);
    const parent = entries.at(-1)?.file ?? null;
    const { pieces } = await digestByPieces(path, 'gmac');
    const file = path.slice(path.lastIndexOf('/') + 1);
    entries.push(entry(LONG_DISK, file, { parent, virtualSize: size, ...state, sha256: null, pieces }));
  }
  await writeCatalog(
    join(root, 'target'),
    catalog(entries.map((each, index) => point(index, [each], { level: index === 0 ? 'full' : 'inc' }))),
  );
  return chain;
}

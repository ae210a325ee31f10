import { open, realpath, stat } from 'node:fs/promises';
import { basename, dirname, resolve } from 'node:path';
import { isQcow2, parseQcow2Header, QCOW2_HEADER_BYTES } from '../core/qcow2-header.js';
import { messageOf, QmpBackupError } from '../errors.js';
import { fileError } from '../host/file-errors.js';
import { type ImageFile, imageFile } from '../qemu-tools/image-file.js';
import { baseImage } from '../qemu-tools/base-image.js';

/**
 * Images that build on one another, as external snapshots leave them: which is the oldest, and which builds on which. Only files that
 * were named are opened, whatever headers say.
 */
export interface ChainImage {
  /** As it was named. */
  readonly name: string;
  /** Without links; absolute. */
  readonly path: string;
  readonly image: ImageFile;
  /** Bytes of the disk. */
  readonly virtualSize: number;
  /** When it was last written to. */
  readonly mtime: Date;
}

interface Seen extends Omit<ChainImage, 'image' | 'virtualSize'> {
  readonly header: {
    readonly backing: string | null;
    readonly backingFormat: string | null;
    readonly virtualSize: number;
  } | null;
}

/**
 * The chains that the images are, each of a disk and oldest first, in whatever order they were named. A backing link means the named file that it leads to; where the files
 * were moved, the one of that name.
 *
 * @throws QmpBackupError `unsafe` unless they are chains: a file is missing, two build on the same, or on nothing; or for an image with
 * a data file or encryption
 */
export async function readImageChains(names: readonly string[]): Promise<readonly (readonly ChainImage[])[]> {
  const seen: Seen[] = [];
  for (const name of names) seen.push(await look(name));
  const twice = seen.find(({ path }, index) => seen.findIndex((each) => each.path === path) !== index);
  if (twice) throw new QmpBackupError('usage', `${twice.name} was given twice`);
  const links = new Map<Seen, Seen | QmpBackupError>();
  for (const each of seen) {
    const link = await linkOf(each, seen);
    if (link) links.set(each, link);
  }
  // An image that is said to be raw has no header, whatever its first bytes are: a guest may have written them.
  const raw = new Set<Seen | QmpBackupError>(
    [...links].flatMap(([each, to]) => (each.header?.backingFormat === 'raw' ? to : [])),
  );
  const parents = new Map<Seen, Seen>();
  for (const [each, to] of links) {
    if (raw.has(each)) continue;
    if (to instanceof QmpBackupError) throw to;
    const other = seen.find((one) => parents.get(one) === to);
    if (other) throw refused(`${other.name} and ${each.name} both build on ${to.name}`);
    parents.set(each, to);
  }
  const describeAll = (chain: readonly Seen[]): Promise<readonly ChainImage[]> =>
    Promise.all(
      chain.map((each, index) => described(each, raw.has(each), chain[index + 1]?.header?.backingFormat ?? null)),
    );
  return Promise.all(inOrder(seen, parents).map(describeAll));
}

function inOrder(seen: readonly Seen[], parents: ReadonlyMap<Seen, Seen>): readonly (readonly Seen[])[] {
  const children = new Map([...parents].map(([child, parent]) => [parent, child]));
  const chains = seen
    .filter((each) => !parents.has(each))
    .map((root) => {
      const chain: Seen[] = [];
      for (let at: Seen | undefined = root; at; at = children.get(at)) chain.push(at);
      return chain;
    });
  if (chains.flat().length < seen.length) throw refused('their backing links go in a circle');
  return chains;
}

const WHOLE_CHAINS = 'Give the images of each disk with all that they build on.';

async function look(name: string): Promise<Seen> {
  try {
    const path = await realpath(name);
    const { mtime } = await stat(path);
    const handle = await open(path, 'r');
    try {
      const bytes = Buffer.alloc(QCOW2_HEADER_BYTES);
      const { bytesRead } = await handle.read(bytes, 0, bytes.length, 0);
      return { name, path, mtime, header: headerIn(bytes.subarray(0, bytesRead), name) };
    } finally {
      await handle.close();
    }
  } catch (error) {
    throw fileError('read', name, error);
  }
}

function headerIn(bytes: Buffer, name: string): Seen['header'] {
  if (!isQcow2(bytes)) return null;
  try {
    const header = parseQcow2Header(bytes);
    if (header.dataFile || header.externalDataFileName !== null)
      throw refused(`${name} keeps its data in another file`);
    if (header.encrypted)
      throw refused(`${name} is encrypted, and an import has no key for it`, 'Decrypt a copy of it first.');
    return { backing: header.backingFile, backingFormat: header.backingFormat, virtualSize: header.virtualSize };
  } catch (error) {
    if (error instanceof QmpBackupError && error.code === 'unsafe') throw error;
    throw new QmpBackupError('damaged', `${name} cannot be used: ${messageOf(error)}`, { cause: error });
  }
}

/** The image that it builds on, or why there is none; undefined where it builds on nothing. */
async function linkOf({ name, path, header }: Seen, seen: readonly Seen[]): Promise<Seen | QmpBackupError | undefined> {
  if (!header || header.backing === null) return undefined;
  const link = fileIn(header.backing);
  const real = await realpath(resolve(dirname(path), link)).catch(() => null);
  const exact = seen.find((each) => each.path === real);
  if (exact) return exact;
  const moved = seen.filter(
    (each) => each.path !== path && [each.path, each.name].some((one) => basename(one) === basename(link)),
  );
  const [found, other] = moved;
  if (found && other) return refused(`${name} builds on ${link}, which both ${found.name} and ${other.name} may be`);
  if (found) return found;
  return refused(
    `${name} builds on ${link}, which was not given`,
    'Give all images of the chain, down to the one that builds on nothing.',
  );
}

/** The file that a backing link names: a path, with or without a protocol, or the description of a node. */
function fileIn(link: string): string {
  if (!link.startsWith('json:')) return link.replace(/^file:/, '');
  const found = /"(?:file\.)?filename"\s*:\s*"((?:[^"\\]|\\.)*)"/.exec(link)?.[1];
  return found === undefined ? link : (JSON.parse(`"${found}"`) as string);
}

/** `told`: the format that the header of the one above gives. */
async function described(
  { name, path, mtime, header }: Seen,
  isRaw: boolean,
  told: string | null,
): Promise<ChainImage> {
  if (header && !isRaw) {
    return { name, path, mtime, virtualSize: header.virtualSize, image: await imageFile({ path, format: 'qcow2' }) };
  }
  const { image, virtualSize } = await baseImage(path, isRaw ? 'raw' : told);
  return { name, path, mtime, image, virtualSize };
}

function refused(why: string, hint = WHOLE_CHAINS): QmpBackupError {
  return new QmpBackupError('unsafe', `the images are no chains: ${why}`, { hint });
}

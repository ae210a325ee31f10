import { type FileHandle, open } from 'node:fs/promises';
import type { Catalog } from '../core/catalog.js';
import { filesThere, parentFileIn } from '../core/chain.js';
import type { FileFault } from '../core/file-record.js';
import type { ByteRange } from '../core/pieces.js';
import type { PointDisk } from '../core/point.js';
import { fileKey } from '../core/verified.js';
import type { Healed } from '../core/whole-chains.js';
import { QmpBackupError } from '../errors.js';
import { codeOf } from '../host/file-errors.js';
import { ClusterMap, type Mapped, readAt } from './cluster-map.js';
import { diskFolder, pathIn } from './layout.js';

/**
 * Whether what is wrong with one file of a chain, FULL first, costs the state of its newest nothing. Where a file that would have to
 * tell cannot be read it does not: that is damage of its own.
 */
export async function isHealed(
  chain: readonly { readonly path: string; readonly virtualSize: number }[],
  path: string,
  { ranges }: { readonly ranges?: readonly ByteRange[] | null | undefined },
): Promise<boolean> {
  if (!ranges) return false;
  const paths = chain.map((each) => each.path);
  return isShadowed(paths, paths.indexOf(path), ranges, chain.at(-1)?.virtualSize ?? 0);
}

/**
 * Whether a state, of files with the FULL first, shows nothing of these bytes of one of them: they hold data alone, and files above
 * have every cluster of it. So where a backup has healed what had rotted below it, its point is whole.
 *
 * @param at which file is meant
 */
async function isShadowed(
  paths: readonly string[],
  at: number,
  bytes: readonly ByteRange[],
  virtualSize: number,
): Promise<boolean> {
  const [path, ...above] = at < 0 ? [] : paths.slice(at);
  if (path === undefined || above.length === 0) return false;
  const shown = await withMap(path, (map) => dataIn(map, bytes, virtualSize));
  if (!shown) return false;
  let wanted = shown;
  for (const file of above.toReversed()) {
    if (wanted.length === 0) return true;
    const below = await withMap(file, (map) => notIn(map, wanted));
    if (!below) return false;
    wanted = below;
  }
  return wanted.length === 0;
}

/**
 * Which files of `amiss` (by `<disk>/<file>`) cost the states that build on them nothing. Each file above one is asked once for what
 * is still shown of it, for chains have thousands of files.
 */
export async function healedStates(
  target: string,
  catalog: Catalog,
  amiss: ReadonlyMap<string, FileFault>,
): Promise<Healed> {
  const healed = new Map<string, Set<string>>();
  if (amiss.size === 0) return healed;
  const there = filesThere(catalog);
  const childrenOf = childrenIn(catalog);
  const placeOf = ({ disk, file }: PointDisk): string => pathIn(diskFolder(target, disk), file);
  for (const [key, { ranges }] of amiss) {
    const entry = there.get(key);
    const shown = entry && ranges && (await withMap(placeOf(entry), (map) => dataIn(map, ranges, entry.virtualSize)));
    if (!shown) continue;
    const met = new Set([entry]);
    const left = childrenOf(entry).map((child) => ({ child, wanted: shown }));
    for (let at = left.pop(); at; at = left.pop()) {
      const { child } = at;
      if (met.has(child)) continue;
      met.add(child);
      const wanted = upTo(child.virtualSize, at.wanted);
      const below = wanted.length === 0 ? wanted : await withMap(placeOf(child), (map) => notIn(map, wanted));
      const name = fileKey(child);
      if (below?.length === 0) healed.set(name, (healed.get(name) ?? new Set()).add(entry.file));
      // What cannot be told hides nothing.
      for (const next of childrenOf(child)) left.push({ child: next, wanted: below ?? wanted });
    }
  }
  return healed;
}

function childrenIn(catalog: Catalog): (entry: PointDisk) => readonly PointDisk[] {
  const parentOf = parentFileIn(catalog);
  const children = new Map<PointDisk, PointDisk[]>();
  for (const entry of filesThere(catalog).values()) {
    const parent = parentOf(entry);
    if (parent) children.set(parent, [...(children.get(parent) ?? []), entry]);
  }
  return (entry) => children.get(entry) ?? [];
}

/** Of a file that is a smaller disk than those below it, nothing shows what they have beyond its end. */
function upTo(virtualSize: number, ranges: readonly ByteRange[]): readonly ByteRange[] {
  return ranges
    .map(({ start, end }) => ({ start, end: Math.min(end, virtualSize) }))
    .filter(({ start, end }) => start < end);
}

/** What of the disk is in these bytes of a file; undefined where anything else is, too. */
async function dataIn(
  map: ClusterMap,
  bytes: readonly ByteRange[],
  virtualSize: number,
): Promise<readonly ByteRange[] | undefined> {
  const isHit = (range: ByteRange): boolean => bytes.some(({ start, end }) => range.start < end && start < range.end);
  const metadata = await map.metadata();
  if (!metadata || metadata.some(isHit)) return undefined;
  const found: ByteRange[] = [];
  for (let start = 0; start < virtualSize; start += STEP) {
    const clusters = await map.clustersIn({ start, end: Math.min(virtualSize, start + STEP) });
    for (const { guest, place } of clusters ?? [])
      if (isData(place) && isHit(place)) found.push({ ...guest, end: Math.min(guest.end, virtualSize) });
  }
  return found;
}

/** What one L2 table maps. */
const STEP = 512 * 1024 * 1024;

function isData(place: Mapped['place']): place is ByteRange {
  return typeof place === 'object';
}

/** What the files below have of it; undefined where that cannot be told. */
async function notIn(map: ClusterMap, wanted: readonly ByteRange[]): Promise<readonly ByteRange[] | undefined> {
  const below: ByteRange[] = [];
  for (const range of wanted) {
    const clusters = await map.clustersIn(range);
    if (!clusters) return undefined;
    for (const { guest, place } of clusters) {
      // Its clusters may be larger than those that are asked for.
      const [start, end] = [Math.max(guest.start, range.start), Math.min(guest.end, range.end)];
      if (place === 'below') below.push({ start, end });
    }
  }
  return below;
}

async function withMap<T>(path: string, use: (map: ClusterMap) => Promise<T>): Promise<T | undefined> {
  let handle: FileHandle | undefined;
  try {
    const opened = (handle = await open(path, 'r'));
    return await use(new ClusterMap((range) => readAt(opened, range), 1));
  } catch (error) {
    // No header, a table cut off or out of reach, no file.
    if (error instanceof QmpBackupError || codeOf(error) !== undefined) return undefined;
    throw error;
  } finally {
    await handle?.close();
  }
}

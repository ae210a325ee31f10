import { type FileHandle, open } from 'node:fs/promises';
import type { Catalog } from '../core/catalog.js';
import { filesThere } from '../core/chain.js';
import type { FileFault } from '../core/file-record.js';
import type { ByteRange } from '../core/pieces.js';
import { fileKey } from '../core/verified.js';
import { chainsIn, type Healed } from '../core/whole-chains.js';
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

/** Which files of `amiss` (by `<disk>/<file>`) cost the states that build on them nothing. */
export async function healedStates(
  target: string,
  catalog: Catalog,
  amiss: ReadonlyMap<string, FileFault>,
): Promise<Healed> {
  const healed = new Map<string, Set<string>>();
  const known = [...amiss].filter(([, { ranges }]) => ranges !== undefined);
  if (known.length === 0) return healed;
  const chainTo = chainsIn(catalog);
  for (const entry of filesThere(catalog).values()) {
    const list = chainTo(entry).list();
    const chain = list.map((each) => ({ ...each, path: pathIn(diskFolder(target, each.disk), each.file) }));
    for (const below of chain.slice(0, -1)) {
      const fault = amiss.get(fileKey(below));
      if (!fault || !(await isHealed(chain, below.path, fault))) continue;
      const names = healed.get(fileKey(entry)) ?? new Set<string>();
      healed.set(fileKey(entry), names.add(below.file));
    }
  }
  return healed;
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

import { basename, dirname, resolve } from 'node:path';
import { displayName } from '../core/identity.js';
import { askFileSystem, type FreeSpace } from '../host/free-space.js';
import { isThere } from '../host/is-there.js';
import { whileAnswering } from '../host/while-answering.js';
import { type ListedPoint, type ListResult, listWithProofs, type ProvedTarget } from '../operations/list.js';
import { catalogCopyPath, catalogPath, catalogsBelow, isMonth } from '../repository/layout.js';

/** What a target tells of one VM. */
export interface TargetSummary {
  /** As its catalogs call it; null where they do not. */
  readonly vm: string | null;
  /** In the order in which they were made. */
  readonly points: readonly ListedPoint[];
  /** What is not known of them: that of their files is told by themselves. */
  readonly unknown: readonly string[];
  /** Bytes that its files take. */
  readonly allocated: number;
  /** When the file that was not read for the longest was, or was written; null where nothing can be proved. ISO 8601. */
  readonly oldestProofAt: string | null;
  /** The targets that they are in: with `--monthly` one of each month. */
  readonly folders: readonly SummarizedFolder[];
  /** Of the file system below; null where it does not tell. */
  readonly space: Pick<FreeSpace, 'free' | 'total'> | null;
}

export type SummarizedFolder = Pick<ProvedTarget, 'target' | 'points' | 'readAt' | 'links'>;

export interface TargetSummaries {
  readonly summaries: readonly TargetSummary[];
  /** Of several targets those that cannot be read. */
  readonly unread: ListResult['unread'];
}

/**
 * The folders that `readTargetSummaries` can read one by one instead of a target: it, or those below it, the months of one VM being one.
 *
 * @throws QmpBackupError where it cannot be read, or does not answer
 */
export function summarizedFolders(target: string): Promise<readonly string[]> {
  const root = resolve(target);
  return whileAnswering(root, foldersOf(root));
}

async function foldersOf(root: string): Promise<readonly string[]> {
  // One whose catalog is lost is a target, too.
  if ((await isThere(catalogPath(root))) || (await isThere(catalogCopyPath(root, 1)))) return [root];
  const below = await catalogsBelow(root);
  const folders = new Set(below.map((folder) => (isMonth(basename(folder)) ? dirname(folder) : folder)));
  // What lies beside months is read with them.
  const apart = [...folders].filter((folder) => folder === root || !folders.has(dirname(folder)));
  return apart.length === 0 || folders.has(root) ? [root] : apart;
}

/**
 * Of each VM in a target, or in the folders below it: the months of one together.
 *
 * @throws QmpBackupError where it cannot be read, or does not answer
 */
export function readTargetSummaries(target: string): Promise<TargetSummaries> {
  const root = resolve(target);
  return whileAnswering(root, readAll(root));
}

async function readAll(root: string): Promise<TargetSummaries> {
  const { targets, unread } = await listWithProofs({ target: root });
  const ofVm = new Map<string, ProvedTarget[]>();
  for (const each of targets) {
    const key = displayName(each.vm) ?? each.target;
    ofVm.set(key, [...(ofVm.get(key) ?? []), each]);
  }
  return { summaries: await Promise.all([...ofVm.values()].map(factsOf)), unread };
}

async function factsOf(targets: readonly ProvedTarget[]): Promise<TargetSummary> {
  const points = targets.flatMap((each) => each.points);
  const files = points.flatMap(({ point }) => point.disks);
  const [first] = targets;
  return {
    vm: first ? displayName(first.vm) : null,
    points,
    unknown: targets.flatMap(({ warnings }) =>
      warnings.flatMap(({ code, text }) => (code === 'memory-lost' ? [text] : [])),
    ),
    allocated: files.reduce((sum, { state, allocated }) => sum + (state === 'merged' ? 0 : allocated), 0),
    oldestProofAt: targets.flatMap((each) => oldestProof(each) ?? []).toSorted()[0] ?? null,
    folders: targets,
    space: first ? await askFileSystem(first.target) : null,
  };
}

function oldestProof({ points, readAt }: SummarizedFolder): string | null {
  let oldest: string | null = null;
  for (const { point } of points) {
    for (const file of point.disks) {
      if (file.state !== 'whole') continue;
      const proved = readAt(file) ?? new Date(file.mtimeMs).toISOString();
      if (oldest === null || proved < oldest) oldest = proved;
    }
  }
  return oldest;
}

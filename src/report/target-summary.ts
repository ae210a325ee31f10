import { resolve } from 'node:path';
import { displayName } from '../core/identity.js';
import { ANSWER_MS, FileSystemHangs } from '../host/free-space.js';
import { within } from '../host/within.js';
import { list, type ListedPoint, type ListedTarget, type ListResult } from '../operations/list.js';
import { readMemory } from '../repository/verified-file.js';

/** What a target tells of one VM. */
export interface TargetSummary {
  /** As its catalogs call it; null where they do not. */
  readonly vm: string | null;
  /** In the order in which they were made. */
  readonly points: readonly ListedPoint[];
  /** Bytes that its files take. */
  readonly allocated: number;
  /** When the file that was not read for the longest was, or was written; null where nothing can be proved. ISO 8601. */
  readonly oldestProofAt: string | null;
}

export interface TargetSummaries {
  readonly summaries: readonly TargetSummary[];
  /** Of several targets those that cannot be read. */
  readonly unread: ListResult['unread'];
}

/**
 * Of each VM in a target, or in the folders below it: the months of one together.
 *
 * @throws QmpBackupError where it cannot be read, or does not answer
 */
export async function readTargetSummaries(target: string): Promise<TargetSummaries> {
  const root = resolve(target);
  const read = await within(ANSWER_MS, readAll(root));
  if (read) return read;
  throw new FileSystemHangs(root, ANSWER_MS);
}

async function readAll(root: string): Promise<TargetSummaries> {
  const { targets, unread } = await list({ target: root });
  const ofVm = new Map<string, ListedTarget[]>();
  for (const each of targets) {
    const key = displayName(each.vm) ?? each.target;
    ofVm.set(key, [...(ofVm.get(key) ?? []), each]);
  }
  return { summaries: await Promise.all([...ofVm.values()].map(factsOf)), unread };
}

async function factsOf(targets: readonly ListedTarget[]): Promise<TargetSummary> {
  const points = targets.flatMap((each) => each.points);
  const files = points.flatMap(({ point }) => point.disks);
  const proofs = await Promise.all(targets.map(oldestProof));
  const [first] = targets;
  return {
    vm: first ? displayName(first.vm) : null,
    points,
    allocated: files.reduce((sum, { state, allocated }) => sum + (state === 'merged' ? 0 : allocated), 0),
    oldestProofAt: proofs.filter((each) => each !== null).toSorted()[0] ?? null,
  };
}

async function oldestProof({ target, targetId, points }: ListedTarget): Promise<string | null> {
  const catalog = { targetId, points: points.map(({ point }) => point) };
  const { known } = await readMemory(target, catalog);
  const files = catalog.points.flatMap(({ disks }) => disks).filter(({ state }) => state === 'whole');
  const proved = files.map(
    (file) => known.get(`${file.disk}/${file.file}`)?.readAt ?? new Date(file.mtimeMs).toISOString(),
  );
  return proved.toSorted()[0] ?? null;
}

import { agreeing, counted } from '../../core/counted.js';
import type { Catalog } from '../../core/catalog.js';
import { backingChainOf } from '../../core/chain.js';
import type { Finding } from '../../core/finding.js';
import { hasDigest } from '../../core/pieces.js';
import type { Point, PointDisk } from '../../core/point.js';
import { planRestore } from '../../core/restore-plan.js';
import { type TargetFinding, targetFinding } from '../../core/target-finding.js';
import { afterLook, fileKey, type FileVerdict } from '../../core/verified.js';
import { chainsIn, gapsIn, type Healed, lostPoints } from '../../core/whole-chains.js';
import { QmpBackupError } from '../../errors.js';
import type { Unwind } from '../../flow/unwind.js';
import { lockForReading } from '../../repository/disk-folder.js';
import { CATALOG_NAME, VERIFIED_NAME } from '../../repository/layout.js';
import { lockTarget } from '../../repository/lock.js';
import { lockToRemove } from '../../repository/making-room.js';
import { healedStates } from '../../repository/shadowed.js';
import { readMemory, writeMemory } from '../../repository/verified-file.js';
import { lookAtDefinitions } from './definitions.js';
import { type FilesLooked, lookAtFiles } from './look-at-files.js';
import { noCatalogFinding, readTold, type ToldByTarget } from './read-target.js';
import { repairTarget } from './repair.js';
import type { VerifyTargetOptions } from './options.js';
import type { VerifiedTarget, VerifyRun } from './request.js';
import { findStrays, strayFinding } from './strays.js';

/** All of one target, under its lock. */
export async function verifyTarget(target: string, given: VerifyRun, unwind: Unwind): Promise<VerifiedTarget> {
  const { breakLock, repair } = given.options;
  const locking = { breakLock, purpose: `verify of ${target}` };
  const lock = repair
    ? await lockToRemove(target, locking)
    : await lockForReading(lockTarget, target, locking, given.warn);
  if (lock) unwind.defer(() => lock.release());
  const run = lock ? { ...given, signal: AbortSignal.any([given.signal, lock.signal]) } : given;
  const found = await readTold(target);
  const repaired = repair ? await repairTarget(run, target, found) : [];
  const told = repaired.length > 0 ? await readTold(target) : found;
  const { catalog } = told;
  if (!catalog) return withoutCatalog(target, told);

  const { points, entries } = scopeOf(catalog, run.options.point);
  const { looked, memory } = await lookAndRemember(run, { target, catalog, entries, canWrite: lock !== undefined });
  const healed = await healedStates(target, catalog, looked.faults);
  const definitions = await lookAtDefinitions(target, points);
  const whole = run.options.point === null;
  const strays = whole ? await findStrays(target, catalog, told.journal) : { strays: [], findings: [] };
  const findings = [
    ...told.findings,
    ...memory,
    ...inCatalog(catalog, points),
    ...withHealed(looked.findings, catalog, points, healed),
    ...definitions.findings,
    ...strays.findings,
    ...strays.strays.map(strayFinding),
    ...(run.options.share ? unprovable(entries) : []),
  ];
  return {
    ...{ target, vm: catalog.vm, targetId: catalog.targetId, findings: worstFirst(findings) },
    repaired,
    points: points.length,
    lost: lostPoints(catalog, points, looked.bad, healed),
    files: entries.length + definitions.files,
    read: looked.read,
    booted: null,
  };
}

/** What is damaged and of which none of these points shows anything is no damage of theirs. */
function withHealed(
  findings: readonly TargetFinding[],
  catalog: Catalog,
  points: readonly Point[],
  healed: Healed,
): readonly TargetFinding[] {
  if (healed.size === 0) return findings;
  const chainTo = chainsIn(catalog);
  return findings.map((finding): TargetFinding => {
    const { subject, file, level } = finding;
    if (level !== 'error') return finding;
    const states = points.flatMap(({ disks }) => disks.filter(({ disk }) => disk === subject));
    const needing = states.filter((entry) =>
      chainTo(entry)
        .list()
        .some((each) => each.file === file),
    );
    const isHealed = needing.every((entry) => healed.get(fileKey(entry))?.has(file ?? '') === true);
    if (needing.length === 0 || !isHealed) return finding;
    return { ...finding, level: 'warning', what: `${finding.what}. Newer files have all of that: the point is whole` };
  });
}

async function withoutCatalog(target: string, { journal, findings }: ToldByTarget): Promise<VerifiedTarget> {
  const strays = await findStrays(target, undefined, journal);
  const isMissing = !findings.some(({ file }) => file === CATALOG_NAME);
  // A first run that died before its point was sealed has lost no catalog.
  const lost = isMissing && (journal === undefined || strays.strays.some(({ kind }) => kind === 'stray'));
  const seen = strays.strays.filter(({ kind }) => kind === 'stray' || kind === 'partial');
  const files =
    seen.length === 0
      ? ''
      : ` (${counted(seen.length, 'file')} ${agreeing(seen.length, 'lies', 'lie')} here that may be of points)`;
  const catalog = lost ? [noCatalogFinding()] : [];
  const all = [...findings, ...catalog].map((each) =>
    each.file === CATALOG_NAME ? { ...each, what: `${each.what}${files}` } : each,
  );
  return {
    ...{ target, vm: null, targetId: null, findings: worstFirst([...all, ...strays.findings]) },
    ...{ repaired: [], points: 0, lost: [], files: 0, read: { files: 0, bytes: 0 }, booted: null },
  };
}

/** The points to look at, and each file of them that is there by the catalog. */
function scopeOf(
  catalog: Catalog,
  asked: VerifyTargetOptions['point'],
): { readonly points: readonly Point[]; readonly entries: readonly PointDisk[] } {
  if (asked === null) {
    const entries = catalog.points.flatMap(({ disks }) => disks).filter(({ state }) => state !== 'merged');
    return { points: catalog.points, entries };
  }
  const { point } = planRestore(catalog, asked);
  const needed = point.disks.filter(({ state }) => state !== 'merged').flatMap((entry) => chainTo(catalog, entry));
  return { points: [point], entries: [...new Set(needed)] };
}

function chainTo(catalog: Catalog, entry: PointDisk): readonly PointDisk[] {
  const chain = backingChainOf(catalog, entry);
  return 'files' in chain ? chain.files : [entry];
}

/** What the catalog alone tells of chains that are not whole. */
function inCatalog(catalog: Catalog, points: readonly Point[]): TargetFinding[] {
  const here = new Set(points.flatMap(({ disks }) => disks));
  const gaps = gapsIn(catalog).filter((each) => points.length === catalog.points.length || here.has(each));
  const merging = new Set([...here].filter(({ state }) => state === 'merging').map(({ disk }) => disk));
  return [
    ...gaps.map(({ disk, file, parent }) => {
      const why = `it builds on ${parent}, which the catalog does not hold`;
      const todo = 'Points that need it cannot be restored. Put back the catalog, if this is an old or altered one.';
      return targetFinding({ level: 'error', subject: disk, code: 'gap', file, why, todo });
    }),
    ...[...merging].map((disk) => {
      const why = 'a rebase of this disk was interrupted: its older points cannot be restored until it is finished';
      const todo = `Finish it: qmpbackup rebase --target DIR --disk ${disk}`;
      return targetFinding({ level: 'warning', subject: disk, code: 'half-merged', why, todo });
    }),
  ];
}

function unprovable(entries: readonly PointDisk[]): TargetFinding[] {
  const without = entries.filter((each) => !hasDigest(each));
  if (without.length === 0) return [];
  const why = `${counted(without.length, 'file')} ${agreeing(without.length, 'was', 'were')} backed up without a digest (--no-digest): nothing proves ${agreeing(without.length, 'its', 'their')} bytes`;
  return [targetFinding({ level: 'info', subject: 'target', code: 'no-digest', why, todo: null })];
}

const DAY_MS = 86_400_000;

/** How long what was found may wait to be written, in milliseconds: a run of many hours may be killed. */
const KEEP_MS = 30_000;

interface Task {
  readonly target: string;
  readonly catalog: Catalog;
  readonly entries: readonly PointDisk[];
  readonly canWrite: boolean;
}

/** Looks at the files with what was known of them before, and keeps what is known now, also of a run that is ended. */
async function lookAndRemember(
  run: VerifyRun,
  { target, catalog, entries, canWrite }: Task,
): Promise<{ readonly looked: FilesLooked; readonly memory: readonly TargetFinding[] }> {
  const { share, outdatedAfter } = run.options;
  const { known, warnings } = await readMemory(target, catalog);
  const memory = new Map(known);
  let changed = false;
  let kept = performance.now();
  const notKept: { why: string | null } = { why: null };
  // What was found counts, also where the target has no room for it.
  const keep = async (): Promise<void> => {
    if (!changed || !canWrite) return;
    kept = performance.now();
    try {
      await writeMemory(target, catalog, memory.values());
      changed = false;
      notKept.why = null;
    } catch (error) {
      if (!(error instanceof QmpBackupError)) throw error;
      notKept.why = error.message;
    }
  };
  const onVerdict = async (verdict: FileVerdict): Promise<void> => {
    const key = fileKey(verdict.entry);
    const before = memory.get(key);
    const after = afterLook(before, verdict, run.now().toISOString());
    if (!after || after === before) return;
    memory.set(key, after);
    changed = true;
    if (performance.now() - kept > KEEP_MS) await keep();
  };
  const nowMs = run.now().getTime();
  const notSince = outdatedAfter === null ? null : new Date(nowMs - outdatedAfter * DAY_MS).toISOString();
  try {
    const request = { share, notSince, nowMs };
    const looked = await lookAtFiles(run, { target, catalog, entries, request, known, onVerdict });
    await keep();
    const unkept = notKept.why === null ? [] : [memoryNotKept(notKept.why)];
    return { looked, memory: [...warnings.map(({ text }) => badMemory(text)), ...unkept] };
  } finally {
    await keep();
  }
}

function memoryNotKept(why: string): TargetFinding {
  const told = { level: 'warning', subject: 'target', code: 'memory-not-kept', file: VERIFIED_NAME } as const;
  const what = `what was found is not remembered: ${why}`;
  return {
    ...told,
    why: what,
    what,
    todo: 'The next backup may build on a damaged file. Make room, and run it again.',
  };
}

function badMemory(why: string): TargetFinding {
  const told = { level: 'warning', subject: 'target', code: 'bad-memory', file: VERIFIED_NAME, why } as const;
  return { ...told, what: why, todo: 'It is begun anew.' };
}

const BADNESS: Readonly<Record<Finding['level'], number>> = { error: 0, warning: 1, info: 2 };

function worstFirst(findings: readonly TargetFinding[]): readonly TargetFinding[] {
  return findings.toSorted((a, b) => BADNESS[a.level] - BADNESS[b.level]);
}

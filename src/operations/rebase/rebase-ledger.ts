import type { Catalog } from '../../core/catalog.js';
import { isFault } from '../../core/file-record.js';
import { type DigestMethod, hasDigest, methodOf, strongest } from '../../core/pieces.js';
import { linkOf, type PointDisk } from '../../core/point.js';
import { fileFinding, type PointFinding, refuseFindings } from '../../core/point-findings.js';
import {
  dropMerged,
  type FileFacts,
  leftovers,
  markMerging,
  type RebaseFile,
  rebaseFiles,
  type RebasePlan,
  settleRebase,
} from '../../core/rebase-plan.js';
import { QmpBackupError } from '../../errors.js';
import { legacyFiles, type RebaseNote } from '../../import/legacy-disk.js';
import type { LegacyChain } from '../../import/legacy-folder.js';
import { checkChain, refuseDamage } from '../../repository/chain-check.js';
import { checkHeader, whyAltered } from '../../repository/check-file.js';
import type { findDigestFault } from '../../repository/digest.js';
import { type DiskFolder, pathInDisk } from '../../repository/disk-folder.js';
import type { fileState } from '../../repository/file-state.js';
import { diskFolder, filePath } from '../../repository/layout.js';

/**
 * What is written down about a merge, so that one which was interrupted is finished and never mistaken for a chain: in
 * the catalog, or in a note where a folder has none.
 */
export interface Ledger {
  readonly files: readonly RebaseFile[];
  /** Files of pinned points, and which points those are in words. */
  readonly pinned: ReadonlyMap<string, string>;
  /**
   * Refuses a missing, altered or hostile file of the line and of the head's children; by digests, where that is asked
   * for: the merge records new ones, and damage would look right from then on.
   *
   * @throws QmpBackupError `unsafe` or `damaged`, by name
   */
  readonly verify: (plan: RebasePlan, options: VerifyOptions) => Promise<void>;
  /** Files above the head whose header has to be given its link; what they are to build on. */
  readonly relinks: (plan: RebasePlan) => readonly { readonly file: string; readonly parent: string }[];
  /** How the digest of this file that is to be recorded is made; null is no digest. */
  readonly digestOf: (file: string, plan: RebasePlan) => DigestMethod | null;
  /** Durable before the first byte is merged. */
  readonly begin: (plan: RebasePlan) => Promise<void>;
  /** Durable after the last byte is merged and proven. */
  readonly settle: (plan: RebasePlan, facts: ReadonlyMap<string, FileFacts>) => Promise<void>;
  /** Removes the files that are merged and forgets them. Also after an earlier run's settle. */
  readonly finish: () => Promise<Finished>;
}

/** File names; of other disks of the target with the disk before. */
export interface Finished {
  /** Known as merged, whether or not they were still there. */
  readonly merged: readonly string[];
  readonly removed: readonly string[];
}

export interface VerifyOptions {
  readonly signal: AbortSignal;
  readonly dryRun: boolean;
  readonly digests: boolean;
  /** Bytes per second of what is read for the digests; undefined or 0 is no limit. */
  readonly rateLimit: number | undefined;
  /** Before the digest of a file is made. */
  readonly onFile: (file: string) => void;
}

export interface LedgerDeps {
  readonly writeCatalog: (target: string, catalog: Catalog) => Promise<void>;
  readonly writeRebaseNote: (dir: string, note: RebaseNote) => Promise<void>;
  readonly removeRebaseNote: (dir: string) => Promise<void>;
  /** True if it was there. */
  readonly removeFile: (path: string) => Promise<boolean>;
  readonly syncFolder: (path: string) => Promise<void>;
  readonly rebaseUnsafe: (path: string, backing: string) => Promise<void>;
  readonly fileState: typeof fileState;
  readonly findDigestFault: typeof findDigestFault;
  readonly removePieceList: (path: string) => Promise<void>;
}

function pinnedFiles({ points }: Catalog, disk: string): ReadonlyMap<string, string> {
  const pinned = points.filter((point) => point.pinned);
  return new Map(
    pinned.flatMap((point) => {
      const words = `a pinned point${point.note === undefined ? '' : ` (${point.note})`}`;
      return point.disks.filter((each) => each.disk === disk).map(({ file }) => [file, words] as const);
    }),
  );
}

export function catalogLedger(folder: DiskFolder, start: Catalog, deps: LedgerDeps): Ledger {
  const { target, disk } = folder;
  let catalog = start;
  const write = async (next: Catalog): Promise<void> => {
    await deps.writeCatalog(target, next);
    catalog = next;
  };
  const entryOf = ({ file }: RebaseFile): PointDisk => {
    const entries = catalog.points.flatMap(({ disks }) => disks);
    const found = entries.find((each) => each.disk === disk && each.file === file && each.state !== 'merged');
    if (!found) throw new QmpBackupError('failed', `${file} is not in the catalog of ${target}`);
    return found;
  };
  return {
    files: rebaseFiles(start, disk),
    pinned: pinnedFiles(start, disk),
    verify: (plan, options) => verifyRecorded(folder, plan, entryOf, options, deps),
    relinks: ({ full, children }) => children.map(({ file }) => ({ file, parent: full.file })),
    digestOf: (file, plan) => {
      const files = file === plan.full.file ? plan.line : plan.children.filter((child) => child.file === file);
      return strongest(files.map((each) => methodOf(entryOf(each))));
    },
    begin: (plan) => write(markMerging(catalog, disk, plan)),
    settle: (plan, facts) => write(settleRebase(catalog, disk, plan, facts)),
    finish: async () => {
      const merged: string[] = [];
      const removed: string[] = [];
      const left = leftovers(catalog);
      for (const each of left) {
        const name = each.disk === disk ? each.file : `${each.disk}/${each.file}`;
        merged.push(name);
        const path = filePath(target, each.disk, each.file);
        await deps.removePieceList(path);
        if (await deps.removeFile(path)) removed.push(name);
      }
      if (removed.length > 0) {
        for (const each of new Set(left.map((one) => one.disk))) await deps.syncFolder(diskFolder(target, each));
      }
      // Only now: while a file is there, the catalog must know its name, or a crash would leave it for good.
      const dropped = dropMerged(catalog);
      if (dropped !== catalog) await write(dropped);
      return { merged, removed };
    },
  };
}

async function verifyRecorded(
  folder: DiskFolder,
  plan: RebasePlan,
  entryOf: (file: RebaseFile) => PointDisk,
  options: VerifyOptions,
  deps: LedgerDeps,
): Promise<void> {
  const { line, full, head, children, resumes } = plan;
  const entries = line.map(entryOf);
  // A FULL that is half merged differs from the catalog; what is merged into it must not.
  if (resumes) {
    const { virtualSize } = head;
    for (const entry of entries) {
      const path = pathInDisk(folder, entry.file);
      const grownTo = entry.file === full.file ? { grownTo: virtualSize } : {};
      refuseFault(entry, await checkHeader(path, { ...entry, ...grownTo, links: [linkOf(entry)] }));
      if (entry.file !== full.file) refuseFault(entry, await whyAltered(path, entry, { signal: options.signal }));
    }
  } else {
    refuse((await checkChain(folder.target, entries, { signal: options.signal })).findings);
  }
  for (const child of children) await verifyChild(folder, plan, entryOf(child), options, deps);
  if (!options.digests) return;
  // With its new link, which a dry run does not take back, a child has another digest.
  const provable = resumes && options.dryRun ? [] : children.map(entryOf);
  await refuseDamage(folder.dir, [...entries.slice(resumes ? 1 : 0), ...provable], options, deps);
}

/**
 * A child of the head gets a new link and then a new digest, which would make an altered file look right: so it is
 * compared first. An interrupted merge may have given it its new link already; with the old one put back its bytes are
 * the old ones, by digest.
 */
async function verifyChild(
  folder: DiskFolder,
  { full, head, resumes }: RebasePlan,
  entry: PointDisk,
  options: VerifyOptions,
  deps: LedgerDeps,
): Promise<void> {
  const path = pathInDisk(folder, entry.file);
  const links = resumes ? [linkOf(entry), full.file] : [linkOf(entry)];
  const header = await checkHeader(path, { ...entry, links });
  refuseFault(entry, header);
  const isRelinked = !isFault(header) && header.backingFile === full.file;
  if (isRelinked && (options.dryRun || !hasDigest(entry))) return;
  if (isRelinked) await deps.rebaseUnsafe(path, linkOf(entry) ?? head.file);
  refuseFault(entry, await whyAltered(path, entry, { signal: options.signal }));
}

function refuseFault({ disk, file }: PointDisk, found: object | undefined): void {
  if (found && isFault(found)) refuse([fileFinding(disk, file, found)]);
}

function refuse(findings: readonly PointFinding[]): void {
  refuseFindings(findings, { hint: 'Put back the file as it was backed up. Nothing was merged.' });
}

/** For a folder that no catalog knows. A settled note has to be finished before its files are read. */
export async function legacyLedger(
  folder: DiskFolder,
  chain: LegacyChain,
  note: RebaseNote | undefined,
  deps: LedgerDeps,
): Promise<Ledger> {
  const { dir } = folder;
  const files = await legacyFiles(dir, chain, note);
  let current = note;
  const write = async (next: RebaseNote): Promise<void> => {
    await deps.writeRebaseNote(dir, next);
    current = next;
  };
  return {
    files,
    pinned: new Map(),
    // There is nothing to compare with, and the headers were examined when the files were listed.
    verify: () => Promise.resolve(),
    relinks: ({ full, head }) =>
      files
        .slice(files.findIndex(({ file }) => file === head.file) + 1)
        .map(({ file, parent }) => ({ file, parent: parent === null || parent === head.file ? full.file : parent })),
    digestOf: () => null,
    begin: (plan) =>
      write({
        full: plan.full.file,
        head: plan.head.file,
        absorbed: plan.line.slice(1, -1).map(({ file }) => file),
        phase: 'merging',
      }),
    settle: async () => {
      if (current) await write({ ...current, phase: 'merged' });
    },
    finish: async () => {
      if (current?.phase !== 'merged') return NOTHING;
      const finished = await finishNote(folder, current, deps);
      current = undefined;
      return finished;
    },
  };
}

/** Removes what a settled note names, then the note. */
export async function finishNote(
  { dir }: Pick<DiskFolder, 'dir'>,
  { absorbed, head }: RebaseNote,
  deps: Pick<LedgerDeps, 'removeFile' | 'syncFolder' | 'removeRebaseNote'>,
): Promise<Finished> {
  const merged = [...absorbed, head];
  const removed: string[] = [];
  for (const file of merged) if (await deps.removeFile(`${dir}/${file}`)) removed.push(file);
  await deps.syncFolder(dir);
  await deps.removeRebaseNote(dir);
  return { merged, removed };
}

export const NOTHING: Finished = { merged: [], removed: [] };

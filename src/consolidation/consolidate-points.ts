import { dirname } from 'node:path';
import type { Catalog, RetiredFile } from '../core/catalog.js';
import { chainOf } from '../core/chain.js';
import {
  baseOf,
  consolidated,
  type Links,
  type MadeFile,
  type MergeLine,
  newNames,
  relinkedBy,
  topOf,
} from '../core/consolidation.js';
import { IMAGE_CLUSTER } from '../core/image-cluster.js';
import { nextNumber, PARTIAL_SUFFIX, pointFileName } from '../core/names.js';
import { methodOf, PIECES_SUFFIX, strongest } from '../core/pieces.js';
import type { PointDisk } from '../core/point.js';
import { refuseFindings } from '../core/point-findings.js';
import { withoutPoints } from '../core/retire-points.js';
import { imageWithData } from '../core/space.js';
import { formatBytes } from '../core/bytes.js';
import { type Warn, warning } from '../core/warning.js';
import { messageOf, QmpBackupError } from '../errors.js';
import { canShareBlocks } from '../host/copy-file.js';
import { createImage } from '../host/empty-image.js';
import { ANSWER_MS, freeSpace } from '../host/free-space.js';
import { ownerFor } from '../host/ownership.js';
import { toolName } from '../host/package-version.js';
import { readHeader } from '../qemu-tools/examine.js';
import { readCatalog, writeCatalog } from '../repository/catalog-file.js';
import { checkChain, refuseDamage } from '../repository/chain-check.js';
import { findDigestFault } from '../repository/digest.js';
import { diskFolder, filePath, partialPath } from '../repository/layout.js';
import { commitRetirement } from '../repository/retired-files.js';
import { sealFile, type SealedFile, type SealOptions } from '../repository/seal-file.js';
import { linkTo } from '../repository/settle-links.js';
import { Staging } from '../repository/staging.js';
import { takenNames } from '../repository/target.js';
import { fillFull } from './fill-full.js';
import { fillIncrement } from './fill-increment.js';
import { MOST_AT_ONCE } from './image-to-fill.js';
import { type MovableFull, movableFull } from './movable-full.js';
import { moveFull } from './move-full.js';

/** The dropped points of one target, and what becomes of their data: see docs/decisions/0031-consolidation.md. */
export interface Consolidation {
  readonly target: string;
  readonly catalog: Catalog;
  readonly dropped: ReadonlySet<string>;
  readonly lines: readonly MergeLine[];
}

export interface ConsolidationRun {
  readonly signal: AbortSignal;
  readonly now: () => Date;
  readonly warn: Warn;
  readonly onEvent: (event: ConsolidationEvent) => void;
}

export type ConsolidationEvent =
  | { readonly kind: 'merging'; readonly disk: string; readonly files: readonly string[]; readonly into: string }
  /** `percent` of 0 to 100, of this file. */
  | { readonly kind: 'progress'; readonly into: string; readonly percent: number };

export interface Consolidated {
  /** The one that counts; its retired files are still there. */
  readonly catalog: Catalog;
  readonly made: readonly MadeFile[];
}

/**
 * Makes the new files beside the old ones, proves them, and has the catalog name them: its rename is the commit point. Whatever is
 * made before is named as retired first, so that whoever comes after a run that was killed removes it. For who holds the target's
 * lock, and has asked `refuseOpenFiles`; afterwards `removeRetiredFiles` is to be called.
 *
 * @throws QmpBackupError `damaged` for a file that is merged and does not hold what was backed up; `unsafe` where something is
 * wrong with one, or there is too little space. Nothing has changed then
 */
export async function consolidatePoints(task: Consolidation, run: ConsolidationRun): Promise<Consolidated> {
  const { target, catalog } = task;
  const { signal } = run;
  await checkFiles(task, signal);
  await requireSpace(task, signal);
  const named = await nameAll(task, run);
  signal.throwIfAborted();
  const staging = new Staging(target, { owner: await ownerFor(target) });
  const begun: Catalog = { ...catalog, retiredFiles: [...(catalog.retiredFiles ?? []), ...named.flatMap(stagedNames)] };
  let isOld = true;
  try {
    await writeCatalog(target, begun);
    const names = newNames(named);
    const made = await whileProving({ target, named }, signal, async (stillGood) => {
      const files: MadeFile[] = [];
      const making = { staging, target, run: { ...run, signal: stillGood } };
      for (const each of named) files.push(await makeFile(each, baseOf(each.line, names), making));
      return files;
    });
    const links = await linksAfter(task, made, signal);
    const next = { ...consolidated(catalog, { dropped: task.dropped, made, links }), tool: toolName() };
    signal.throwIfAborted();
    isOld = false;
    const { failure } = await commit(target, next, task.dropped);
    isOld = failure !== null;
    if (isOld) throw failure;
    staging.keep();
    await staging.undo();
    return { catalog: next, made };
  } catch (error) {
    // Of a catalog that cannot be read nobody knows which one counts: the next run does, and removes the rest.
    if (isOld) await undo(staging, target, catalog, run);
    else {
      staging.keep();
      await staging.undo();
    }
    throw error;
  }
}

/** Where not all could be undone the catalog still names what is left, and the next run removes it. */
async function undo(staging: Staging, target: string, before: Catalog, { warn }: ConsolidationRun): Promise<void> {
  try {
    await staging.undo();
    await writeCatalog(target, before);
  } catch (error) {
    warn(warning('left-behind', `what was made of the merge could not be removed now (${messageOf(error)})`));
  }
}

/** After an error what counts is what can be read then. */
async function commit(target: string, next: Catalog, dropped: ReadonlySet<string>): Promise<Committed> {
  try {
    await commitRetirement(target, next);
    return { failure: null };
  } catch (error) {
    const now = await readCatalog(target);
    const isOld = now?.points.some(({ id }) => dropped.has(id));
    return { failure: isOld ? error : null };
  }
}

interface Committed {
  /** Why the old catalog is the one that counts; null where it is the new one. */
  readonly failure: unknown;
}

/** That the files which are merged are there, and whole by what is seen of them. */
async function checkFiles({ target, catalog, lines }: Consolidation, signal: AbortSignal): Promise<void> {
  const seen = new Set<PointDisk>();
  // The newest first: those of the others are in its chain, and are looked at once.
  for (const line of lines.toReversed()) {
    if (seen.has(topOf(line))) continue;
    const { files, fault } = chainOf(catalog, topOf(line));
    if (fault) throw new QmpBackupError('unsafe', `${line.disk}: ${fault.why}`, { hint: HINT });
    const { findings } = await checkChain(target, files, { signal });
    refuseFindings(findings, { hint: HINT });
    for (const each of files) seen.add(each);
  }
}

/**
 * What is merged gets another digest, by which damage would look right from then on: it is proved by its own while `make` reads it
 * as well. Where it is damaged, that is what is told, whatever else went wrong for it. Of a FULL that is moved that is proved which
 * was copied or changes.
 */
async function whileProving<T>(
  { target, named }: { readonly target: string; readonly named: readonly NamedLine[] },
  signal: AbortSignal,
  make: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const damage = new AbortController();
  const prove = async (): Promise<void> => {
    try {
      for (const {
        line: { disk, files },
        moved,
      } of named) {
        const options = { signal, besideCopy: true };
        await refuseDamage(diskFolder(target, disk), moved ? files.slice(1) : files, options, { findDigestFault });
      }
    } catch (error) {
      damage.abort(error);
      throw error;
    }
  };
  const [proved, made] = await Promise.allSettled([prove(), make(AbortSignal.any([signal, damage.signal]))]);
  if (proved.status === 'rejected') throw proved.reason;
  if (made.status === 'rejected') throw made.reason;
  return made.value;
}

const HINT = 'Nothing was merged. See what else is wrong: qmpbackup verify --target DIR';

async function requireSpace({ target, lines }: Consolidation, signal: AbortSignal): Promise<void> {
  const shares = canShareBlocks(target);
  const need = lines.reduce((sum, line) => sum + mostOf(line, shares), 0);
  const { free } = await freeSpace(target, { timeoutMs: ANSWER_MS, signal });
  if (need <= free) return;
  throw new QmpBackupError(
    'unsafe',
    `there is too little space in ${target}: the merge can need ${formatBytes(need)}, and ${formatBytes(free)} are free`,
    { hint: 'Nothing was changed. Free some, or merge fewer points at a time.' },
  );
}

/** The most bytes that the new file of a line can take. */
function mostOf({ files }: MergeLine, shares: boolean): number {
  const { virtualSize } = files.at(-1) ?? { virtualSize: 0 };
  const isFull = files[0]?.parent === null;
  const read = isFull && shares && !files[0]?.compressed ? files.slice(1) : files;
  // Of what is compressed the catalog tells only what it takes.
  const data = read.some(({ compressed }) => compressed)
    ? virtualSize
    : read.reduce((sum, { allocated }) => sum + allocated, 0);
  return imageWithData(Math.min(data, virtualSize), virtualSize, isFull);
}

interface NamedLine {
  readonly line: MergeLine;
  readonly file: string;
  /** The FULL that it begins with, where that can be moved. */
  readonly moved: MovableFull | undefined;
}

async function nameAll(
  { target, catalog, lines }: Consolidation,
  { now, signal }: ConsolidationRun,
): Promise<readonly NamedLine[]> {
  const taken = await takenNames(
    { target, catalog },
    lines.map(({ disk }) => disk),
  );
  const used = new Map<string, readonly string[]>(taken);
  const named: NamedLine[] = [];
  for (const line of lines) {
    const { disk, files } = line;
    const isFull = files[0]?.parent === null;
    const level = isFull ? 'full' : topOf(line).level;
    const file = pointFileName(level, nextNumber(Math.floor(now().getTime() / 1000), used.get(disk) ?? []));
    // Its number is the highest.
    used.set(disk, [file]);
    named.push({ line, file, moved: isFull ? await movableFull(diskFolder(target, disk), files, signal) : undefined });
  }
  return named;
}

/** All that is there of a file at one time or another. */
function stagedNames({ line: { disk }, file }: NamedLine): RetiredFile[] {
  const names = [`${file}${PARTIAL_SUFFIX}`, file, `${file}${PIECES_SUFFIX}${PARTIAL_SUFFIX}`];
  return names.map((name) => ({ folder: disk, file: name }));
}

interface Making {
  readonly staging: Staging;
  readonly target: string;
  readonly run: ConsolidationRun;
}

async function makeFile(
  { line, file, moved }: NamedLine,
  base: string | null,
  { staging, target, run }: Making,
): Promise<MadeFile> {
  const { disk, files } = line;
  const { signal, onEvent } = run;
  const { virtualSize } = topOf(line);
  const compress = base === null ? files[0]?.compressed === true : compressesIncrement(files, virtualSize);
  onEvent({ kind: 'merging', disk, files: files.map((each) => each.file), into: file });
  const path = await staging.reserve(disk, file);
  const image = { dir: dirname(path), partial: `${file}${PARTIAL_SUFFIX}`, files, compress };
  let last = -1;
  const onProgress = (percent: number): void => {
    if (Math.floor(percent) === last) return;
    last = Math.floor(percent);
    onEvent({ kind: 'progress', into: file, percent: last });
  };
  const filling = { signal, onProgress };
  const seal = (how: Pick<SealOptions, 'prove' | 'known'>): Promise<SealedFile> => {
    const partial = { disk, file, path: partialPath(target, disk, file), empty: null };
    return sealFile(staging, partial, { digests: strongest(files.map(methodOf)), signal, ...how });
  };
  const about = { line, file, compressed: compress };
  if (moved) {
    const known = await moveFull(image, moved, filling).catch(async (error: unknown) => {
      // Of a FULL that is damaged it says what came of that.
      signal.throwIfAborted();
      await refuseDamage(image.dir, [moved.full], { signal }, { findDigestFault });
      throw error;
    });
    return { ...about, ...(await seal({ known })) };
  }
  const { compressionType } = await readHeader(filePath(target, disk, topOf(line).file), topOf(line).file);
  const type = compress && compressionType === 'zstd' ? { compressionType } : {};
  await createImage(path, { size: virtualSize, backing: base ?? undefined, ...type });
  const prove = await (base === null ? fillFull : fillIncrement)(image, filling);
  return { ...about, ...(await seal({ prove })) };
}

/** The filter that does it takes whole clusters only, and writes none twice. */
function compressesIncrement(files: readonly PointDisk[], virtualSize: number): boolean {
  const all = files.every(({ compressed }) => compressed);
  return all && virtualSize % IMAGE_CLUSTER === 0 && files.length <= MOST_AT_ONCE;
}

/** What is to be said of the headers that name a file which is replaced. */
async function linksAfter(
  { target, catalog, dropped }: Consolidation,
  made: readonly MadeFile[],
  signal: AbortSignal,
): Promise<Links> {
  const links = new Map<string, NonNullable<PointDisk['link']>>();
  for (const { entry, parent } of relinkedBy(catalog, made, dropped)) {
    links.set(`${entry.disk}/${entry.file}`, await linkTo(target, entry, parent, { signal }));
  }
  return links;
}

/** What is retired by it, `<disk>/<file>`: nobody may have it open. */
export function goingFiles({ catalog, dropped, lines }: Omit<Consolidation, 'target'>): readonly string[] {
  const gone = withoutPoints(catalog, dropped).retiredFiles ?? [];
  return [
    ...gone.map(({ folder, file }) => `${folder}/${file}`),
    ...lines.map((line) => `${line.disk}/${topOf(line).file}`),
  ];
}

import type { Catalog } from '../core/catalog.js';
import { definitionFilesOf, recordedFiles } from '../core/damage.js';
import type { LeftOut } from '../core/disk.js';
import type { FileFault } from '../core/file-record.js';
import { DEFINITION_FOLDER } from '../core/names.js';
import type { Point, PointDisk } from '../core/point.js';
import { fileFinding, type PointFinding } from '../core/point-findings.js';
import {
  chainFinding,
  nameOf,
  planDisk,
  planRestore,
  type RestoreDisk,
  type PointRequest,
  suspectFindings,
  otherPoints,
} from '../core/restore-plan.js';
import { fileKey, rememberedDamage } from '../core/verified.js';
import { chainsIn, type ChainSummary } from '../core/whole-chains.js';
import { QmpBackupError } from '../errors.js';
import { requireCatalog } from './catalog-file.js';
import { checkChain } from './chain-check.js';
import type { DigestOptions } from './digest.js';
import { filesAmiss } from './file-state.js';
import { diskFolder, pathIn } from './layout.js';
import { whyStillDamaged } from './look-at-recorded.js';
import { unsealedRun, unsealedRunFinding } from './unsealed-run.js';
import { healedStates, isHealed } from './shadowed.js';
import { readMemory, type VerifyMemory } from './verified-file.js';

/** A point of a target as it is on disk, for whoever reads it: a plain value, and nothing of it is held open. */
export interface OpenPoint {
  readonly target: string;
  readonly catalog: Catalog;
  /** Disks that the point has and that were not asked for. */
  readonly leftOut: readonly LeftOut[];
  /** Disks that have files in other points, were there at the time, and are not in this one. */
  readonly absent: readonly string[];
  readonly point: Point;
  /** In words: `point 3`, `copy 0123456789ab`. */
  readonly name: string;
  /** Those that were asked for. */
  readonly disks: readonly OpenDisk[];
  /** All that was found, those of the disks too. `refuseFindings` makes a refusal of it. */
  readonly findings: readonly PointFinding[];
}

export interface OpenDisk {
  readonly disk: string;
  /** The folder that its files are in, and that their links are relative to. */
  readonly dir: string;
  /** What the catalog says of the point's own file. */
  readonly entry: PointDisk;
  /** The files that its state takes, FULL first and its own last; empty where the catalog does not tell them. */
  readonly chain: readonly OpenFile[];
  readonly findings: readonly PointFinding[];
}

export interface OpenFile {
  readonly path: string;
  readonly entry: PointDisk;
}

/** A point among all of a target. */
export interface PointState extends Pick<OpenPoint, 'point' | 'name' | 'findings'> {
  readonly disks: readonly DiskState[];
}

/** As `OpenDisk`, without the files of its chain, unless they are asked for. */
export interface DiskState extends Pick<OpenDisk, 'disk' | 'findings'>, Pick<ChainSummary<never>, 'files' | 'list'> {}

export interface OpenOptions extends DigestOptions {
  /**
   * How far files are looked at. `catalog`: not at all; `stat`: they are there with the recorded size; `headers` (the
   * default, and the least for who lets a QEMU program open them): modification times and headers too, and digests of
   * files whose time is another than recorded. No look reads every byte, but those of files that `verify` has found
   * damaged (`stat` believes it): for that there is `findDamage`.
   */
  readonly look?: 'catalog' | 'stat' | 'headers';
  /** Where it was read already. */
  readonly catalog?: Catalog;
}

/**
 * Opens one point of a target for reading: which files make up its disks, and what is wrong with them. Everything wrong
 * with the point is a finding and not thrown, so that one caller lists it and another refuses:
 *
 *     const point = await openPoint(target, { point: '3' }, { signal });
 *     refuseFindings(point.findings);
 *     for (const { dir, chain } of point.disks) viewOf(chain.map(({ entry }) => entry.file)) // in `dir`
 *
 * The caller holds the target's lock (`lockForReading`) for as long as the files must stay as they are. Without a request
 * it is the newest point that is whole by the catalog; `point`, `until`, `disks`, `include` and `exclude` are what the
 * command line takes by these names.
 *
 * @throws QmpBackupError `no-catalog`; `unsafe` for a catalog that cannot be read, and where no point was named and none
 * is whole; `usage` for a point, file or disk that there is not, with what there is; the reason of an abort
 */
export async function openPoint(
  target: string,
  request: PointRequest = {},
  options: OpenOptions = {},
): Promise<OpenPoint> {
  const catalog = options.catalog ?? (await requireCatalog(target));
  const { point, name, disks, leftOut, absent } = planRestore(catalog, request);
  const found = await remembered(target, catalog, options);
  const opened: OpenDisk[] = [];
  for (const planned of disks) opened.push(await openPlanned(target, planned, found, options));
  const definition = options.look === 'catalog' ? NONE : await filesAmiss(target, definitionFilesOf(point));
  const findings = [
    ...(await runFindings(target, catalog)),
    ...opened.flatMap((each) => each.findings),
    ...definitionFindings(point, definition),
  ];
  return { target, catalog, point, name, disks: opened, leftOut, absent, findings };
}

/** One disk of a point alone, as `openPoint` opens each. `entry` is the one in `point`. */
export async function openDisk(
  target: string,
  catalog: Catalog,
  { point, entry }: { readonly point: Point; readonly entry: PointDisk },
  options: OpenOptions = {},
): Promise<OpenDisk> {
  return openPlanned(target, planDisk(catalog, point, entry), await remembered(target, catalog, options), options);
}

/**
 * Every point of a target with all its disks, each as by `openPoint` with `look: 'stat'`, but each file is looked at
 * once, and no chain is followed twice. What a dead run left is no finding here, for a run may be under way.
 * `memory`: where it was read already.
 */
export async function openEveryPoint(
  target: string,
  catalog: Catalog,
  memory?: VerifyMemory,
): Promise<readonly PointState[]> {
  const found = rememberedDamage((memory ?? (await readMemory(target, catalog))).known);
  const amiss = new Map([...found, ...(await filesAmiss(target, recordedFiles(catalog)))]);
  const healed = await healedStates(target, catalog, amiss);
  const chainTo = chainsIn(catalog, (entry) => [...suspectFindings(entry), ...amissFindings(entry, amiss)]);
  let told: string | undefined;
  const todo = (): string => (told ??= otherPoints(catalog));
  return catalog.points.map((point) => {
    const name = nameOf(point, catalog);
    const disks = point.disks.map((entry): DiskState => {
      const { files, list, fault, found: ofFiles } = chainTo(entry);
      const left = ofFiles.filter(({ file }) => healed.get(fileKey(entry))?.has(file ?? '') !== true);
      const findings = fault ? [chainFinding(entry, fault, { name, todo: todo() }), ...left] : left;
      return { disk: entry.disk, files, list, findings };
    });
    const findings = [...disks.flatMap((each) => each.findings), ...definitionFindings(point, amiss)];
    return { point, name, disks, findings };
  });
}

const NONE: Remembered = new Map();

/** What `verify` has found damaged, by `<disk>/<file>`. */
async function remembered(target: string, catalog: Catalog, { look }: OpenOptions): Promise<Remembered> {
  return look === 'catalog' ? NONE : rememberedDamage((await readMemory(target, catalog)).known);
}

type Remembered = ReadonlyMap<string, FileFault>;

async function openPlanned(
  target: string,
  planned: RestoreDisk,
  found: Remembered,
  options: OpenOptions,
): Promise<OpenDisk> {
  const opened = opening(target, planned);
  const { look = 'headers' } = options;
  const files = planned.chain.filter(({ state }) => state === 'whole');
  if (look === 'stat') {
    const amiss = new Map([...found, ...(await filesAmiss(target, files))]);
    const findings = planned.chain.flatMap((each) => amissFindings(each, amiss));
    return withFindings(opened, findings);
  }
  // While a merge is half done its files differ from the catalog, and rightly so.
  if (look === 'catalog' || files.length < planned.chain.length) return opened;
  const { signal, onBytes, rateLimit } = options;
  const { findings } = await checkChain(target, files, { signal, onBytes, rateLimit, ofState: true });
  if (findings.length > 0) return withFindings(opened, findings);
  return withFindings(opened, await stillDamaged(opened, found, { signal, onBytes, rateLimit }));
}

/** Each is read again: it may have been put back since, and storage that failed may be well. */
async function stillDamaged({ chain }: OpenDisk, found: Remembered, options: DigestOptions): Promise<PointFinding[]> {
  const findings: PointFinding[] = [];
  for (const { path, entry } of chain) {
    const fault = found.has(`${entry.disk}/${entry.file}`) && (await whyStillDamaged(path, entry, options));
    if (fault && !(await isHealed(placedIn(chain), path, fault)))
      findings.push(fileFinding(entry.disk, entry.file, fault));
  }
  return findings;
}

function placedIn(chain: readonly OpenFile[]): readonly { path: string; virtualSize: number }[] {
  return chain.map(({ path, entry: { virtualSize } }) => ({ path, virtualSize }));
}

function opening(target: string, { entry, chain: files, findings }: RestoreDisk): OpenDisk {
  const dir = diskFolder(target, entry.disk);
  const chain = files.map((each) => ({ path: pathIn(dir, each.file), entry: each }));
  return { disk: entry.disk, dir, entry, chain, findings };
}

function withFindings(opened: OpenDisk, more: readonly PointFinding[]): OpenDisk {
  return more.length === 0 ? opened : { ...opened, findings: [...opened.findings, ...more] };
}

function amissFindings({ disk, file }: PointDisk, amiss: ReadonlyMap<string, FileFault>): PointFinding[] {
  const fault = amiss.size > 0 && amiss.get(`${disk}/${file}`);
  return fault ? [fileFinding(disk, file, fault)] : [];
}

/** The disks can be restored without it, so it is a warning; who wants the definition reads it by its digests. */
function definitionFindings(point: Point, amiss: ReadonlyMap<string, FileFault>): PointFinding[] {
  if (amiss.size === 0) return [];
  return definitionFilesOf(point).flatMap(({ disk, file }): PointFinding[] => {
    const fault = amiss.get(`${DEFINITION_FOLDER}/${file}`);
    return fault ? [{ ...fileFinding(disk, file, fault), level: 'warning' }] : [];
  });
}

/** What a run that died left; nothing of it is in a point. */
async function runFindings(target: string, catalog: Catalog): Promise<readonly PointFinding[]> {
  try {
    const dead = await unsealedRun(target, catalog);
    return dead ? [unsealedRunFinding(dead)] : [];
  } catch (error) {
    if (!(error instanceof QmpBackupError)) throw error;
    const { message, hint = null } = error;
    const told = { subject: 'target', file: null, why: message, what: message, todo: hint };
    return [{ ...told, level: 'warning', code: 'unreadable-journal' }];
  }
}

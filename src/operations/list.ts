import { resolve } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import type { BootProof } from '../core/boot-proof.js';
import type { Catalog } from '../core/catalog.js';
import { type Damage, damageInWords } from '../core/damage.js';
import { valuesOf } from '../core/option-rules.js';
import type { Point, PointDisk } from '../core/point.js';
import { isFileFinding, type PointFinding } from '../core/point-findings.js';
import { type FreedAlone, freedAlone, linksIn, type PointLinks } from '../core/point-space.js';
import { fileKey } from '../core/verified.js';
import type { Warning } from '../core/warning.js';
import type { QmpBackupError } from '../errors.js';
import { collectFailure } from '../flow/collect-failure.js';
import { requireCatalog } from '../repository/catalog-file.js';
import { readTargets } from '../repository/histories.js';
import { openEveryPoint, type PointState } from '../repository/open-point.js';
import { readMemory } from '../repository/verified-file.js';
import { LIST_OPTIONS, type ListRequest } from './options.js';

/** What a target holds: chains and points, the size of each and what it needs. Reads the catalog, and looks at the files. */
export interface ListedPoint {
  readonly point: Point;
  /** How many files the point needs, itself included. */
  readonly files: number;
  /** They, `<disk>/<file>`; made when asked for, since those of all points of a chain grow with the square of its length. */
  readonly needs: readonly string[];
  /** Why it cannot be restored as a whole, or null. */
  readonly notWhole: string | null;
  /** Files that it needs and that are gone, have another size, or were found damaged by `verify`. */
  readonly damaged: readonly Damage[];
  /** Disks whose content may be wrong although all is whole, with the file that says so: see `suspect` in the catalog. */
  readonly suspect: readonly { readonly disk: string; readonly file: string; readonly why: string }[];
  /** What came of it when `verify --boot` last started it; null where it never did. */
  readonly booted: BootProof | null;
  /** What its removal alone would free; made when asked for. */
  readonly freed: FreedAlone;
}

export interface ListedTarget {
  readonly target: string;
  readonly vm: Catalog['vm'];
  readonly targetId: string;
  readonly points: readonly ListedPoint[];
  /** What files that are gone or altered cost, in words. */
  readonly warnings: readonly Warning[];
}

/** One whose catalog cannot be read. */
export interface UnlistedTarget {
  readonly target: string;
  readonly error: QmpBackupError;
}

export interface ListResult {
  readonly targets: readonly ListedTarget[];
  /** Of several targets those whose catalog cannot be read: they hide no other. */
  readonly unread: readonly UnlistedTarget[];
}

/**
 * The target itself, or every target in the folders below it (as `--monthly` makes them).
 *
 * @throws QmpBackupError `no-catalog`, and of a single target what is wrong with its catalog
 */
export async function list(request: ListRequest): Promise<ListResult> {
  const { targets, unread } = await listWithProofs(request);
  return {
    targets: targets.map(({ target, vm, targetId, points, warnings }) => ({ target, vm, targetId, points, warnings })),
    unread,
  };
}

/** Also what only reports show. */
export interface ProvedTarget extends ListedTarget {
  /** When a file was last read to its end and found right, ISO 8601; null where it never was. */
  readonly readAt: (file: PointDisk) => string | null;
  /** Which points build on which, by index. */
  readonly links: () => PointLinks;
}

/** As `list`. */
export async function listWithProofs(
  request: ListRequest,
): Promise<{ readonly targets: readonly ProvedTarget[]; readonly unread: ListResult['unread'] }> {
  const { targets, unread } = await readTargets(resolve(valuesOf(LIST_OPTIONS, request).target));
  if (targets.length === 0 && unread[0]) throw unread[0].error;
  return { targets: await Promise.all(targets.map(({ target, catalog }) => listed(target, catalog))), unread };
}

/** How often a target is looked at again that changes under the look. */
const MOST_LOOKS = 5;

/** Nobody is held up by it, nor it by anybody: what a run beside it drops or merges after `catalog` was read is no damage. */
export async function listed(target: string, catalog: Catalog, looks = MOST_LOOKS): Promise<ProvedTarget> {
  const found = await listedAsOf(target, catalog);
  if (looks === 1 || found.points.every(({ notWhole }) => notWhole === null)) return found;
  const latest = await collectFailure(requireCatalog(target));
  if ('failed' in latest || isDeepStrictEqual(latest, catalog)) return found;
  return listed(target, latest, looks - 1);
}

async function listedAsOf(target: string, catalog: Catalog): Promise<ProvedTarget> {
  const memory = await readMemory(target, catalog);
  const { warnings, boots, known } = memory;
  let knownLinks: PointLinks | undefined;
  const links = (): PointLinks => (knownLinks ??= linksIn(catalog.points));
  const freed = freedAlone(catalog.points, links);
  const proofs = new Map(boots.map((each) => [each.point, each]));
  const states = await openEveryPoint(target, catalog, memory);
  const points = states.map((each) => new ReadPoint(each, proofs, freed));
  const damage = new Map(
    points.flatMap(({ point, damaged }) => (damaged.length > 0 ? [[point, damaged] as const] : [])),
  );
  return {
    ...{ target, vm: catalog.vm, targetId: catalog.targetId, points, links },
    readAt: (file) => known.get(fileKey(file))?.readAt ?? null,
    warnings: [...warnings, ...damageInWords(catalog, damage)],
  };
}

/** A class, as an object with getters of its own takes 30 times as long to make. */
class ReadPoint implements ListedPoint {
  readonly point: Point;
  readonly files: number;
  readonly notWhole: string | null;
  readonly damaged: readonly Damage[];
  readonly suspect: ListedPoint['suspect'];
  readonly booted: BootProof | null;
  readonly #disks: PointState['disks'];
  readonly #freed: (point: Point) => FreedAlone;

  constructor(
    { point, disks, findings }: PointState,
    boots: ReadonlyMap<string, BootProof>,
    freed: (point: Point) => FreedAlone,
  ) {
    this.point = point;
    this.files = disks.reduce((sum, { files }) => sum + files, 0);
    this.notWhole = whyNotWhole(findings);
    this.damaged = findings
      .filter(isFileFinding)
      .map(({ subject, file, why }) => ({ disk: subject, file: `${subject}/${file}`, why }));
    this.suspect = findings.flatMap(({ code, subject, file, why }) =>
      code === 'suspect' && file !== null ? [{ disk: subject, file, why }] : [],
    );
    this.booted = boots.get(point.id) ?? null;
    this.#disks = disks;
    this.#freed = freed;
  }

  get needs(): readonly string[] {
    return this.#disks.flatMap(({ list: files }) => files().map(fileKey));
  }

  get freed(): FreedAlone {
    return this.#freed(this.point);
  }
}

function whyNotWhole(findings: readonly PointFinding[]): string | null {
  const errors = findings.filter(({ level }) => level === 'error');
  const first = errors.find((each) => !isFileFinding(each)) ?? errors[0];
  return first ? inWords(first) : null;
}

function inWords(finding: PointFinding): string {
  return isFileFinding(finding) ? `${finding.subject}/${finding.file}: ${finding.why}` : finding.why;
}

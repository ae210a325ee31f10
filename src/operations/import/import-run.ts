import { randomBytes } from 'node:crypto';
import { resolve } from 'node:path';
import type { Readable } from 'node:stream';
import type { VerbContext, WarningEvent } from '../../backends/verb-context.js';
import { type Catalog, newCatalog } from '../../core/catalog.js';
import type { VmIdentity } from '../../core/identity.js';
import { type Journal, JOURNAL_SCHEMA } from '../../core/journal.js';
import { nextNumber, pointFileName } from '../../core/names.js';
import type { Point, PointDisk } from '../../core/point.js';
import { QmpBackupError } from '../../errors.js';
import type { ImportPlan, ImportPoint } from '../../import/import-plan.js';
import { listFiles } from '../../repository/target.js';
import type { ImportFile, ImportKind } from './import-file.js';
import type { ImportOptions } from './options.js';

/** What an import reports, and how the points that it makes are named and written down. */
export type ImportEvent =
  | WarningEvent
  | { readonly kind: 'importing'; readonly point: number; readonly of: number; readonly file: string }
  /** `percent` of 0 to 100, of this stream. */
  | { readonly kind: 'progress'; readonly file: string; readonly percent: number };

export interface ImportContext extends VerbContext<ImportEvent> {
  /** What `-` means: an archive as it comes. */
  readonly input: Readable;
}

export interface ImportedDisk {
  readonly disk: string;
  /** The stream in the folder. */
  readonly from: string;
  /** The file in the disk's folder of the target. */
  readonly file: string;
  readonly parent: string | null;
  /** Bytes. */
  readonly virtualSize: number;
  /** Why its content may be wrong, or null. In a dry run: as far as can be told without reading it. */
  readonly suspect: string | null;
}

export interface ImportedPoint {
  readonly level: Point['level'];
  readonly number: number;
  readonly checkpoint: string | null;
  readonly createdAt: string;
  readonly disks: readonly ImportedDisk[];
}

export interface ImportResult {
  readonly source: string;
  readonly target: string;
  readonly vm: VmIdentity;
  readonly chain: string | null;
  readonly points: readonly ImportedPoint[];
  readonly dryRun: boolean;
}

export interface ImportRun {
  readonly options: ImportOptions;
  readonly context: VerbContext<ImportEvent>;
  readonly plan: ImportPlan;
  readonly vm: VmIdentity;
  readonly kind: ImportKind;
  /** Bytes that it may take. */
  readonly need: number;
  readonly target: string;
  /** Id of the chain and of its first point too. */
  readonly attempt: string;
}

/** A point with the names and the number that it gets. */
export interface NamedPoint {
  readonly id: string;
  readonly chain: string | null;
  readonly number: number;
  readonly createdAt: string;
  readonly plan: ImportPoint;
  readonly files: readonly ImportFile[];
}

export async function nameAll({ plan, target, attempt }: ImportRun): Promise<readonly NamedPoint[]> {
  const disks = plan.points.flatMap((point) => point.disks.map(({ disk }) => disk));
  const held = [...(await listFiles(target, disks)).values()].flat();
  const byPlan = new Map<ImportPoint['disks'][number], ImportFile>();
  let [seconds, inChain] = [0, 0];
  return plan.points.map((point, index) => {
    const taken = timeOf(point.date);
    seconds = Math.max(seconds + 1, nextNumber(Math.max(0, Math.floor(taken.getTime() / 1000)), held));
    const files = point.disks.map((each): ImportFile => {
      const file: ImportFile = {
        disk: each.disk,
        level: each.level,
        from: each.source,
        file: pointFileName(each.level, seconds),
        parent: (each.parent && byPlan.get(each.parent)) ?? null,
        virtualSize: each.virtualSize,
        suspect: each.suspect,
      };
      byPlan.set(each, file);
      return file;
    });
    const chain = point.level === 'copy' ? null : attempt;
    const number = chain === null ? 0 : inChain++;
    return {
      id: index === 0 ? attempt : randomId(),
      chain,
      number,
      createdAt: taken.toISOString(),
      plan: point,
      files,
    };
  });
}

/** Streams say the local time of their host, without its zone: taken for the zone of this one. */
function timeOf(date: string): Date {
  const time = new Date(date);
  if (!Number.isNaN(time.getTime())) return time;
  throw new QmpBackupError('damaged', `a stream has the date ${date}, which there is not`);
}

export function randomId(): string {
  return randomBytes(6).toString('hex');
}

export function journalOf({ attempt, context, vm, kind }: ImportRun, points: readonly NamedPoint[]): Journal {
  const files = points.flatMap((point) => point.files);
  return {
    schema: JOURNAL_SCHEMA,
    attempt,
    startedAt: context.now().toISOString(),
    what: `import from ${kind.name}`,
    owner: { kind: 'none' },
    vm,
    disks: files.map(({ disk, file }) => ({ disk, bitmap: null, job: '', file })),
    madeFolders: [...new Set(files.map(({ disk }) => disk))],
    freezes: null,
    stops: false,
    scratch: [],
    servesNbd: false,
  };
}

export function catalogOf(
  { options, context, vm }: ImportRun,
  points: readonly NamedPoint[],
  entries: ReadonlyMap<ImportFile, PointDisk>,
): Catalog {
  const targetId = randomBytes(8).toString('hex');
  return {
    ...newCatalog({ tool: options.tool, targetId, createdAt: context.now().toISOString(), vm }),
    points: points.map(({ id, chain, number, createdAt, plan, files }) => ({
      id,
      chain,
      number,
      level: plan.level,
      createdAt,
      // Whether the guest was frozen no stream says: at least it is one instant, or its tool has failed too.
      consistency: 'crash',
      vmStatus: 'unknown',
      machine: { name: vm.name, uuid: vm.uuid, qemuVersion: 'unknown', type: null, memory: null, cpus: null },
      disks: files.flatMap((file) => entries.get(file) ?? []),
      removed: [],
    })),
  };
}

export function resultOf(
  { options, target, vm, attempt }: ImportRun,
  points: readonly NamedPoint[],
  entries: ReadonlyMap<ImportFile, PointDisk>,
): ImportResult {
  return {
    source: resolve(options.source),
    target,
    vm,
    chain: points.some(({ chain }) => chain !== null) ? attempt : null,
    points: points.map(({ number, createdAt, plan, files }) => ({
      level: plan.level,
      number,
      checkpoint: plan.checkpoint,
      createdAt,
      disks: files.map((each) => ({
        disk: each.disk,
        from: each.from.name,
        file: each.file,
        parent: each.parent?.file ?? null,
        virtualSize: each.virtualSize,
        suspect: entries.has(each) ? (entries.get(each)?.suspect ?? null) : each.suspect,
      })),
    })),
    dryRun: options.dryRun,
  };
}

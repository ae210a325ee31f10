import { isDeepStrictEqual } from 'node:util';
import type { BackupOptions } from '../../backends/backup-options.js';
import type { BackupRun, Instant, Planned } from '../../backends/backup-run.js';
import type { Copied, Ended, StagedImage } from '../../backends/copy-method.js';
import { type Catalog, newCatalog } from '../../core/catalog.js';
import type { VmState } from '../../core/disk.js';
import { type Hardware, recordedHardware } from '../../core/hardware.js';
import { rememberedIdentity } from '../../core/identity.js';
import type { BackupPlan, PlannedDisk } from '../../core/plan.js';
import type { Point, PointDisk } from '../../core/point.js';
import { lacksOf } from '../../core/remarks.js';
import { QmpBackupError } from '../../errors.js';
import { allOf, eachDisk, endingTogether } from '../../flow/all-of.js';
import { commitCatalog, sealFile } from '../../repository/seal-file.js';
import type { Staging } from '../../repository/staging.js';

/** What became of the plan. */
export interface Taken {
  readonly vm: Pick<VmState, 'status' | 'machine'>;
  readonly instant: Instant;
  readonly outcomes: readonly Copied[];
}

/**
 * Makes a point valid: images flushed, checked, renamed; then the catalog that names them is written and renamed into
 * place. That rename is the commit point. `rest` is what else must be done before it, beside the images. Bitmaps that it
 * could not remove are retired by the catalog, so that they are never a parent and each later run tries again.
 */
export async function sealPoint(
  run: BackupRun,
  { catalog: before, targetId, plan }: Planned,
  staging: Staging,
  staged: readonly StagedImage[],
  taken: Taken,
  rest: () => Promise<Ended>,
): Promise<{ readonly plan: BackupPlan; readonly catalog: Catalog; readonly point: Point }> {
  // A digest may take hours.
  const { signal, step } = endingTogether(run.signal);
  const [disks, { definition, hardware, stuck }] = await allOf([
    eachDisk(staged, (image) => step(sealImage({ ...run, signal }, staging, image, taken))),
    step(rest()),
  ]);
  run.signal.throwIfAborted();
  const { tool, note } = run.options;
  const point = pointOf(run.attempt, plan, taken, disks, { definition, hardware, note, before: before?.points ?? [] });
  const vm = rememberedIdentity(before?.vm, run.identity);
  const known = before ?? newCatalog({ tool, targetId, createdAt: taken.instant.at, vm });
  const [points, retired] = [
    [...known.points, point],
    [...known.retired, ...stuck],
  ];
  const catalog: Catalog = { ...known, tool, vm, points, retired };
  await commitCatalog(run.target, catalog, point.id);
  return { plan, catalog, point };
}

async function sealImage(
  { options, signal }: BackupRun,
  staging: Staging,
  { planned, path, empty }: StagedImage,
  { outcomes }: Taken,
): Promise<PointDisk> {
  const { digests, compress: compressed } = options;
  const outcome = outcomes.find(({ job }) => job === planned.job);
  if (!outcome) throw new QmpBackupError('failed', `${planned.disk}: nobody has said that its copy is whole`);
  const image = { disk: planned.disk, file: planned.file, path, empty: outcome.copied === 0 ? empty : null };
  const state = await sealFile(staging, image, { digests, signal });
  return {
    ...entryOf(planned),
    ...state,
    changed: outcome.copied,
    durationMs: Math.round(outcome.durationMs),
    compressed,
    ...(planned.compares && { compared: true as const }),
  };
}

function entryOf(
  planned: PlannedDisk,
): Omit<PointDisk, 'size' | 'allocated' | 'mtimeMs' | 'sha256' | 'pieces' | 'changed' | 'durationMs' | 'compressed'> {
  const { source } = planned;
  return {
    disk: planned.disk,
    level: planned.level,
    reason: planned.reason,
    state: 'whole',
    file: planned.file,
    parent: planned.parent?.file ?? null,
    bitmap: planned.newBitmap,
    virtualSize: source.virtualSize,
    plaintextOfEncrypted: source.encrypted,
    source: {
      device: source.device,
      qdev: source.qdev,
      node: source.address,
      file: source.file,
      format: source.format,
      image: planned.parent ? null : source.image,
    },
  };
}

interface Beside extends Pick<Ended, 'definition' | 'hardware'>, Pick<BackupOptions, 'note'> {
  /** The points that there are. */
  readonly before: readonly Point[];
}

function pointOf(
  attempt: string,
  plan: BackupPlan,
  { instant, vm }: Taken,
  disks: PointDisk[],
  { definition, hardware, note, before }: Beside,
): Point {
  const lacks = lacksOf(plan.leftOut);
  return {
    id: attempt,
    chain: plan.chain,
    number: plan.number,
    level: plan.level,
    createdAt: instant.at,
    consistency: instant.consistency,
    vmStatus: vm.status,
    machine: { ...vm.machine, ...newHardware(hardware, before, plan.chain) },
    disks,
    removed: [...plan.removed],
    ...(lacks.length > 0 && { lacks }),
    ...(definition && { definition }),
    ...(note !== null && { note }),
  };
}

/** A chain of a thousand points tells once what stays as it is. */
function newHardware(
  hardware: Hardware | null,
  before: readonly Point[],
  chain: string | null,
): Pick<Point['machine'], 'hardware'> {
  if (!hardware) return {};
  const known = chain === null ? undefined : recordedHardware(before, { id: '', chain });
  return isDeepStrictEqual(known, hardware) ? {} : { hardware };
}

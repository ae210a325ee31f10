import type { Catalog, Point, PointDisk } from '../domain/catalog.js';
import type { BackupPlan, PlannedDisk } from '../domain/plan.js';
import { rememberedIdentity, type VmIdentity } from '../domain/identity.js';
import { QmpBackupError } from '../errors.js';
import { check } from '../qemu-img/steps.js';
import type { JobOutcome } from '../qemu/job-watch.js';
import type { TransactionDisk } from '../qemu/transaction.js';
import { readCatalog, writeCatalog } from '../repository/catalog-file.js';
import { sha256File } from '../repository/digest.js';
import { syncFile } from '../repository/durable.js';
import { fileState } from '../repository/file-state.js';
import type { Staging } from '../repository/staging.js';
import { eachDisk } from './each-disk.js';
import type { Instant } from './take-point.js';

/**
 * Makes a point valid: images flushed, checked, renamed; then the catalog that names them is written and renamed into
 * place. That rename is the commit point.
 */
export interface SealInput {
  readonly target: string;
  readonly targetId: string;
  readonly tool: string;
  readonly catalog: Catalog | undefined;
  readonly plan: BackupPlan;
  readonly attempt: string;
  readonly identity: VmIdentity;
  readonly vm: { readonly status: string; readonly machine: Point['machine'] };
  readonly instant: Instant;
  readonly outcomes: readonly (JobOutcome & { readonly durationMs: number })[];
  readonly compressed: boolean;
  readonly digests: boolean;
  readonly signal: AbortSignal;
}

export async function sealPoint(
  staging: Staging,
  staged: readonly TransactionDisk[],
  input: SealInput,
): Promise<{ readonly catalog: Catalog; readonly point: Point }> {
  const disks = await eachDisk(staged, (disk) => sealImage(staging, disk, input));
  input.signal.throwIfAborted();
  const point = pointOf(input, disks);
  const catalog: Catalog = {
    ...(input.catalog ?? {
      schema: 1,
      targetId: input.targetId,
      createdAt: input.instant.at,
      points: [],
      retired: [],
    }),
    tool: input.tool,
    vm: rememberedIdentity(input.catalog?.vm, input.identity),
    points: [...(input.catalog?.points ?? []), point],
  };
  await commit(input.target, catalog, point.id);
  return { catalog, point };
}

/**
 * Once the rename has been attempted nothing is undone by guesswork: an error after it (of the folder's fsync, say) is
 * settled by reading the catalog again.
 */
async function commit(target: string, catalog: Catalog, point: string): Promise<void> {
  try {
    await writeCatalog(target, catalog);
  } catch (error) {
    const now = await readCatalog(target);
    if (!now?.points.some(({ id }) => id === point)) throw error;
  }
}

async function sealImage(
  staging: Staging,
  { planned, path }: TransactionDisk,
  { outcomes, digests, compressed, signal }: SealInput,
): Promise<PointDisk> {
  // QEMU with cache=unsafe never flushes; fsync by another descriptor writes its pages out as well.
  await syncFile(path);
  const [report, sha256] = await Promise.all([check(path, { signal }), digests ? sha256File(path, { signal }) : null]);
  if (report.corruptions > 0 || report.checkErrors > 0) {
    throw new QmpBackupError('failed', `${planned.disk}: qemu-img check found damage in the new image`, {
      hint: 'The point was not kept. Check the storage of the target.',
    });
  }
  signal.throwIfAborted();
  await staging.promote(planned.disk, planned.file);
  const state = await fileState(staging.filePath(planned.disk, planned.file));
  if (!state) throw new QmpBackupError('failed', `${planned.file} vanished from the target while it was sealed`);
  const outcome = outcomes.find(({ job }) => job === planned.job);
  return {
    ...entryOf(planned),
    size: state.size,
    allocated: state.allocated,
    mtimeMs: state.mtimeMs,
    sha256,
    changed: outcome?.copied ?? 0,
    durationMs: Math.round(outcome?.durationMs ?? 0),
    compressed,
  };
}

function entryOf(
  planned: PlannedDisk,
): Omit<PointDisk, 'size' | 'allocated' | 'mtimeMs' | 'sha256' | 'changed' | 'durationMs' | 'compressed'> {
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
      node: source.node,
      file: source.file,
      format: source.format,
      image: planned.parent ? null : source.image,
    },
  };
}

function pointOf({ plan, attempt, instant, vm }: SealInput, disks: PointDisk[]): Point {
  return {
    id: attempt,
    chain: plan.chain,
    number: plan.number,
    level: plan.level,
    createdAt: instant.at,
    consistency: instant.consistency,
    vmStatus: vm.status,
    machine: vm.machine,
    disks,
    removed: [...plan.removed],
  };
}

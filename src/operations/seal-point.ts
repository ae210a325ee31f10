import type { Catalog, Point, PointDisk } from '../domain/catalog.js';
import type { BackupPlan, PlannedDisk } from '../domain/plan.js';
import { rememberedIdentity, type VmIdentity } from '../domain/identity.js';
import type { JobOutcome } from '../qemu/job-watch.js';
import type { TransactionDisk } from '../qemu/transaction.js';
import type { Staging } from '../repository/staging.js';
import { eachDisk } from './each-disk.js';
import type { Instant } from './instant.js';
import { commitCatalog, sealFile } from './seal-file.js';

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
  staged: readonly Pick<TransactionDisk, 'planned' | 'path'>[],
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
  await commitCatalog(input.target, catalog, point.id);
  return { catalog, point };
}

async function sealImage(
  staging: Staging,
  { planned, path }: Pick<TransactionDisk, 'planned' | 'path'>,
  { outcomes, digests, compressed, signal }: SealInput,
): Promise<PointDisk> {
  const state = await sealFile(staging, { disk: planned.disk, file: planned.file, path }, { digests, signal });
  const outcome = outcomes.find(({ job }) => job === planned.job);
  return {
    ...entryOf(planned),
    ...state,
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

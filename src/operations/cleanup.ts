import { resolve } from 'node:path';
import type { AskedVm } from '../backends/address.js';
import type { FoundBitmap, FoundInVm } from '../backends/found-bitmaps.js';
import { findInDomain } from '../backends/libvirt/cleanup.js';
import { refuseRunState } from '../backends/qmp/hold-vm.js';
import { repairVm } from '../backends/qmp/repair.js';
import { ENDING_MS, openVm } from '../backends/qmp/session.js';
import { contextOf, type VerbContext, type WarningEvent } from '../backends/verb-context.js';
import type { Catalog } from '../core/catalog.js';
import { afterRepairs, reconcileVm, type RepairAction } from '../core/reconcile.js';
import { judgeBitmap, targetIdOf } from '../core/stale-bitmaps.js';
import { warning } from '../core/warning.js';
import { QmpBackupError } from '../errors.js';
import { type Unwind, unwinding } from '../flow/unwind.js';
import { imageBitmaps, removeImageBitmap } from '../qemu-tools/bitmaps.js';
import { imageFile } from '../qemu-tools/image-file.js';
import { removeBitmap } from '../qemu/bitmaps.js';
import type { QmpClient } from '../qmp/client.js';
import { readCatalog, requireCatalog } from '../repository/catalog-file.js';
import { catalogsBelow } from '../repository/layout.js';
import { type CleanupOptions, cleanupOptions, type CleanupRequest } from './options.js';

/** Removes our bitmaps from a VM (from a libvirt domain its checkpoints), or from images of a VM that is off. */
export interface JudgedBitmap {
  /** Node name, target of a domain's disk, or image path. */
  readonly where: string;
  readonly bitmap: string;
  readonly removed: boolean;
  readonly why: string;
}

export interface CleanupResult {
  readonly bitmaps: readonly JudgedBitmap[];
  /** What was to be removed and is still there, in the words of `why`. */
  readonly stuck: readonly JudgedBitmap[];
  /** Ids of the targets whose next backup will be full. */
  readonly needFull: readonly string[];
  readonly dryRun: boolean;
  /** What a dead run had left going on in the VM, ended first: its jobs hold bitmaps. */
  readonly repairs: readonly RepairAction[];
}

export type CleanupContext = VerbContext<WarningEvent>;

export function cleanup(request: CleanupRequest, given: Partial<CleanupContext> = {}): Promise<CleanupResult> {
  return unwinding(async (unwind) => {
    const [options, context] = [cleanupOptions(request), contextOf(given)];
    const { signal } = context;
    signal.throwIfAborted();
    // What is wrong with a target is told before the VM is touched.
    await neededBy(options);
    const found: FoundBitmap[] = [];
    for (const where of options.images) {
      const image = await imageFile({ path: resolve(where), format: 'qcow2' });
      for (const { name } of await imageBitmaps(image)) {
        found.push({ where, bitmap: name, remove: () => removeImageBitmap(image, name) });
      }
    }
    const inVm = options.vm
      ? await findInVm(options.vm, { ...options, trace: context.trace }, unwind)
      : { bitmaps: [], repairs: [] };
    // Again under the VM's lock: a backup that ended meanwhile has made its bitmap one that is needed.
    const staleOf = await neededBy(options);
    const all = [...found, ...inVm.bitmaps];
    const removed = await removeJudged(all, { uuid: options.uuid, staleOf }, { dryRun: options.dryRun, signal });
    for (const { where, bitmap, why } of removed.stuck) {
      context.report({ kind: 'warning', ...warning('bitmap-stuck', `${where}: ${bitmap} is still there: ${why}`) });
    }
    return { ...removed, repairs: inVm.repairs };
  });
}

async function neededBy({ staleTargets }: CleanupOptions): Promise<readonly Catalog[] | null> {
  return staleTargets === null ? null : catalogsOf(staleTargets);
}

async function findInVm(
  vm: AskedVm,
  options: CleanupOptions & Pick<CleanupContext, 'trace'>,
  unwind: Unwind,
): Promise<FoundInVm> {
  const { dryRun } = options;
  if (vm.kind === 'domain') {
    return findInDomain({ ...options, ...vm }, unwind);
  }
  const endDeadJobsMs = dryRun ? null : ENDING_MS;
  const session = await openVm({ ...options, monitor: vm.monitor, purpose: 'cleanup', endDeadJobsMs }, unwind);
  const { client, state } = session;
  refuseRunState(state);
  const repairs = reconcileVm(state);
  const { disks } = dryRun ? afterRepairs(state, repairs) : (await repairVm(client, state)).vm;
  return {
    bitmaps: disks.flatMap(({ address: node, bitmaps }) => bitmaps.map(({ name }) => onNode(client, node, name))),
    repairs,
  };
}

function onNode(client: QmpClient, node: string, bitmap: string): FoundBitmap {
  return { where: node, bitmap, remove: () => removeBitmap(client, node, bitmap) };
}

async function removeJudged(
  found: readonly FoundBitmap[],
  choice: Parameters<typeof judgeBitmap>[1],
  { dryRun, signal }: { readonly dryRun: boolean; readonly signal: AbortSignal },
): Promise<Omit<CleanupResult, 'repairs'>> {
  const bitmaps: JudgedBitmap[] = [];
  const needFull = new Set<string>();
  const stuck: JudgedBitmap[] = [];
  let failure: QmpBackupError | undefined;
  for (const { where, bitmap, stays, remove } of found) {
    const verdict = judgeBitmap(bitmap, choice);
    if (!verdict.remove) {
      bitmaps.push({ where, bitmap, removed: false, why: verdict.why });
      continue;
    }
    signal.throwIfAborted();
    try {
      if (stays !== undefined) throw whileOff(where, bitmap, stays);
      if (!dryRun) await remove();
      bitmaps.push({ where, bitmap, removed: true, why: verdict.why });
      if (verdict.needsFull) needFull.add(targetIdOf(bitmap) ?? bitmap);
    } catch (error) {
      if (!(error instanceof QmpBackupError)) throw error;
      failure ??= error;
      stuck.push({ where, bitmap, removed: false, why: error.message });
    }
  }
  // What was done must be told; where nothing was, the failure tells it all.
  if (failure && bitmaps.every(({ removed }) => !removed)) throw failure;
  return { bitmaps: [...bitmaps, ...stuck], stuck, needFull: [...needFull], dryRun };
}

function whileOff(where: string, bitmap: string, why: string): QmpBackupError {
  return new QmpBackupError('unsafe', `the bitmap ${bitmap} of ${where} stays while the domain is off: ${why}`, {
    hint: 'Start the domain, then run it again: libvirt then removes the bitmap with its checkpoint.',
  });
}

async function catalogsOf(targets: readonly string[]): Promise<readonly Catalog[]> {
  const catalogs = await Promise.all(
    targets.map(async (target) => {
      const root = resolve(target);
      const own = await readCatalog(root);
      const below = own ? [] : await catalogsBelow(root);
      if (!own && below.length === 0) await requireCatalog(root);
      return own ? [own] : Promise.all(below.map((folder) => requireCatalog(folder)));
    }),
  );
  return catalogs.flat();
}

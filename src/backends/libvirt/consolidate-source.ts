import { isAbsolute } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type DetachedOverlay, detachedInWords } from '../../core/detached-overlay.js';
import { isFailure } from '../../core/failure.js';
import { type ImageLayer, layersOf, type ConsolidatedDisk } from '../../core/overlay-layers.js';
import { isOverlay } from '../../core/overlay-names.js';
import type { RepairAction } from '../../core/reconcile.js';
import { type Warning, warning } from '../../core/warning.js';
import { QmpBackupError } from '../../errors.js';
import { collectFailure } from '../../flow/collect-failure.js';
import type { Unwind } from '../../flow/unwind.js';
import { blockJobOf, startBlockPull } from '../../libvirt/block-jobs.js';
import { listDomains } from '../../libvirt/domain.js';
import { type DomainDisk, parseDomain } from '../../libvirt/domain-xml.js';
import { DomainNotFound } from '../../libvirt/errors.js';
import { imagesOf } from '../../libvirt/image-layers.js';
import { layersNow, mergeAllOverlays, mergeChain, refuseSnapshotsIn } from '../../libvirt/merge-overlays.js';
import { snapshotNames } from '../../libvirt/snapshot.js';
import type { AskedVm } from '../address.js';
import { repairDomainAlone, repairsAlone } from './repair.js';
import { detachedOverlays } from './stray-overlay.js';
import { type DomainSession, openDomain, refuseDomainState } from './session.js';

/** `commit`: into the image at the bottom; `pull`: into the one that the guest writes to. */
export type Adoption = 'none' | 'commit' | 'pull';

export interface ConsolidatedSource {
  readonly disks: readonly ConsolidatedDisk[];
  readonly repairs: readonly RepairAction[];
  readonly warnings: readonly Warning[];
}

interface Access extends Extract<AskedVm, { readonly kind: 'domain' }> {
  readonly breakLock: boolean;
  readonly dryRun: boolean;
  /** What becomes of images of others. */
  readonly adopt: Adoption;
  readonly signal: AbortSignal;
}

/**
 * Takes our overlays out of the chains of a domain's disks while it runs; with `adopt` all that is in them, so that each disk is on
 * one image.
 *
 * @throws QmpBackupError `unsafe` before anything is changed, where a disk cannot be consolidated
 */
export async function consolidateDomain(access: Access, unwind: Unwind): Promise<ConsolidatedSource> {
  const session = await openDomain({ ...access, purpose: 'consolidate-source' }, unwind);
  refuseDomainState(session.domain);
  // What a run that died has left above an image is consolidated with the rest; its backup job is in the way.
  const found = (await repairsAlone(session, session.state)).filter(({ kind }) => kind !== 'merge-overlay');
  const plans = session.domain.disks.flatMap((disk) => planOf(disk, access.adopt) ?? []);
  if (plans.length > 0) await refuseUnsafe(session, plans, access.adopt);
  if (access.dryRun) return { disks: plans, repairs: found, warnings: [] };
  const { report } = found.length > 0 ? await repairDomainAlone(session, session.state) : { report: NOTHING };
  const done: ConsolidatedDisk[] = [];
  const meanwhile: DetachedOverlay[] = [];
  for (const plan of plans) {
    access.signal.throwIfAborted();
    const [overlay, ...buildsOn] = plan.removed;
    if ((await carryOut(session, plan)) || overlay === undefined) done.push(plan);
    else meanwhile.push({ overlay, buildsOn, image: plan.image, atNextStart: false, imageInUse: false });
  }
  const left = done.flatMap((each) => each.left);
  const warnings = [
    ...(left.length > 0 ? [warning('left-behind', leftInWords(left))] : []),
    ...(await detachedInWarnings(session, meanwhile)),
  ];
  return { disks: done, repairs: report.actions, warnings: [...report.warnings, ...warnings] };
}

const NOTHING = { actions: [], warnings: [] } as const;

/** They cannot be merged without their disk. `meanwhile`: known to be so; of others that no start attaches again the repair has told. */
async function detachedInWarnings(
  session: DomainSession,
  meanwhile: readonly DetachedOverlay[],
): Promise<readonly Warning[]> {
  const before = await collectFailure(detachedOverlays(session));
  if (isFailure(before)) return [warning('overlay-left', before.failed)];
  return [...before.filter(({ atNextStart }) => atNextStart), ...meanwhile].map((each) =>
    warning('overlay-left', `${detachedInWords(each)}, and it is not merged: run this again when the disk is attached`),
  );
}

function planOf(disk: DomainDisk, adopt: Adoption): ConsolidatedDisk | undefined {
  const layers = imagesOf(disk);
  const { overlays, image } = layersOf(layers);
  const own = overlays.map(({ path }) => path);
  const target = disk.target;
  const bottom = layers.at(-1) ?? layers[0];
  if (adopt === 'none' || layers.length === 1) {
    if (own.length === 0) return undefined;
    return { target, image: image.description, by: 'commit', removed: own, left: [] };
  }
  const kept = adopt === 'commit' ? bottom : layers[0];
  const others = layers.filter(({ description }) => description !== kept.description && !own.includes(description));
  const left = others.map(({ description }) => description);
  const removed = own.filter((path) => path !== kept.description);
  return { target, image: kept.description, by: adopt, removed, left };
}

async function refuseUnsafe(
  session: DomainSession,
  plans: readonly ConsolidatedDisk[],
  adopt: Adoption,
): Promise<void> {
  const { virsh, uuid, domain } = session;
  const refuse = (words: string, hint: string): never => {
    throw new QmpBackupError('unsafe', words, { hint: `Nothing was changed. ${hint}` });
  };
  if (!domain.active)
    refuse(
      `the domain ${domain.name} is off, and libvirt merges images while it runs`,
      'Start it first; it starts with its overlays.',
    );
  for (const { target, image, left, removed, by } of plans) {
    const disk = domain.disks.find((each) => each.target === target);
    const [above] = disk && adopt === 'none' ? layersOf(imagesOf(disk)).above : [];
    if (above) {
      refuse(
        `${target}: ${above.description} of somebody else is above an overlay of ours`,
        'Delete that snapshot, or have it merged too: --adopt commit.',
      );
    }
    if (by === 'pull' && isOverlay(image.split('/').pop() ?? '')) {
      refuse(
        `${target}: the guest writes to an overlay of ours, which would have to stay`,
        'Use --adopt commit, or run it without --adopt first.',
      );
    }
    if (!isAbsolute(image)) refuse(`${target}: ${image} is no file and no device of this host`, 'Use virsh blockpull.');
    for (const path of removed) await refuseSnapshotsIn(session, target, path);
    if (left.length > 0) {
      const names = await snapshotNames(virsh, uuid);
      if (names.length > 0) {
        refuse(
          `libvirt has snapshots of the domain (${names.join(', ')}), which may need these images`,
          'Delete them first: virsh snapshot-delete.',
        );
      }
      await refuseShared(session, by === 'commit' ? [image, ...left] : []);
    }
  }
}

/** An image that others build on, as a template, is not written to. */
async function refuseShared({ virsh, uuid }: DomainSession, images: readonly string[]): Promise<void> {
  if (images.length === 0) return;
  for (const other of await listDomains(virsh)) {
    if (other.uuid === uuid) continue;
    const disks = await disksOf(virsh, other.uuid);
    const shared = disks.flatMap((disk) => imagesOf(disk)).find(({ path }) => path !== null && images.includes(path));
    if (!shared) continue;
    throw new QmpBackupError('unsafe', `${shared.description} is an image of the domain ${other.name}, too`, {
      hint: 'Nothing was changed. Use --adopt pull: it writes to the uppermost image alone.',
    });
  }
}

async function disksOf(virsh: DomainSession['virsh'], uuid: string): Promise<readonly DomainDisk[]> {
  try {
    return parseDomain(await virsh('dumpxml', [], { domain: uuid })).disks;
  } catch (error) {
    if (error instanceof DomainNotFound) return [];
    throw error;
  }
}

/** Resolves to false, and does nothing, where the disk is attached no more. */
async function carryOut(session: DomainSession, { target, image, by, left }: ConsolidatedDisk): Promise<boolean> {
  if (by === 'commit' && left.length === 0) return mergeAllOverlays(session, target);
  await (by === 'pull' ? pullChain(session, target) : mergeChain(session, target, image));
  return true;
}

async function pullChain(session: DomainSession, target: string): Promise<void> {
  const { virsh, uuid } = session;
  await startBlockPull(virsh, uuid, target, 0);
  for (let pause = 20; (await blockJobOf(virsh, uuid, target)) !== null; pause = Math.min(2 * pause, 1_000)) {
    await sleep(pause);
  }
  const left: readonly ImageLayer[] = (await layersNow(session, target)).slice(1);
  if (left.length === 0) return;
  throw new QmpBackupError(
    'failed',
    `${target}: ${left.map(({ description }) => description).join(', ')} could not be pulled up`,
    {
      hint: 'No data is at risk: the disk is as it was. See whether the storage of its image is full.',
    },
  );
}

function leftInWords(left: readonly string[]): string {
  return `no disk is on these images any more, and they are left alone: ${left.join(', ')}; remove them when no other VM needs them`;
}

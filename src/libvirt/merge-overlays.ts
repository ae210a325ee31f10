import { rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { formatBytes } from '../core/bytes.js';
import { type ImageLayer, layersOf, type OverlayLayer } from '../core/overlay-layers.js';
import { isOverlay } from '../core/overlay-names.js';
import { parseQcow2Header, QCOW2_HEADER_BYTES } from '../core/qcow2-header.js';
import { type Connect, virshCommand } from '../core/virsh-hint.js';
import { QmpBackupError } from '../errors.js';
import { deviceSize } from '../host/block-device.js';
import { syncFolder } from '../host/durable.js';
import { codeOf, fileError } from '../host/file-errors.js';
import { firstBytes } from '../host/first-bytes.js';
import { ACTIVE_COMMIT, COMMIT, pivot, startActiveCommit, startCommit } from './block-commit.js';
import { blockJobOf, type DiskJob, limitBlockJob } from './block-jobs.js';
import type { DomainState } from './domain-state.js';
import { dumpDefinition } from './domain.js';
import { parseDomain } from './domain-xml.js';
import { VirshError } from './errors.js';
import { type ImageLayers, imagesOf } from './image-layers.js';
import { announceChange, settleRecords } from './still-images.js';
import type { Virsh } from './virsh.js';

/** Overlays above the disks of a domain, and how they go again: by a commit into what is below them, while the guest runs. */

export interface MergingDomain {
  readonly virsh: Virsh;
  readonly uuid: string;
  readonly domain: Pick<DomainState, 'active' | 'connect' | 'name'>;
}

/** How fast an overlay goes down. */
export interface CommitPace {
  /** Bytes per second that a commit copies at most; 0, the default, is no limit. See `untilCommitted`. */
  readonly rate?: number;
  /** Without a limit from then on. */
  readonly hurry?: AbortSignal;
}

/** The images of a disk at this moment, the uppermost first; null where it is attached no more. */
export async function layersIfAttached(
  { virsh, uuid }: Pick<MergingDomain, 'virsh' | 'uuid'>,
  target: string,
): Promise<ImageLayers | null> {
  const { disks } = parseDomain(await virsh('dumpxml', [], { domain: uuid }));
  const disk = disks.find((each) => each.target === target);
  return disk ? imagesOf(disk) : null;
}

/** As `layersIfAttached`. @throws QmpBackupError `failed` where it is attached no more */
export async function layersNow(session: MergingDomain, target: string): Promise<ImageLayers> {
  const layers = await layersIfAttached(session, target);
  if (layers) return layers;
  throw new QmpBackupError('failed', `the domain has no disk ${target} any more`);
}

/**
 * Commits one overlay of ours into the image below it, and removes its file. One that is in no chain any more needs nothing. What a run
 * that died has begun of that is finished first. Resolves to false, and does nothing, where the disk is attached no more.
 *
 * @throws QmpBackupError `unsafe` where the domain is off, or somebody else has put something above it, or a snapshot into it; `failed`
 * where the commit failed
 */
export async function mergeOverlay(
  session: MergingDomain,
  target: string,
  name: string,
  options: CommitPace = {},
): Promise<boolean> {
  if ((await layersIfAttached(session, target)) === null) return false;
  await finishCommit(session, target);
  const layers = await layersNow(session, target);
  const { overlays, above } = layersOf(layers);
  const overlay = overlays.find((each) => each.name === name);
  if (!overlay) return true;
  if (!session.domain.active) throw whileOff(session, target, overlay);
  if (above.length > 0) throw underOthers(target, overlay, above);
  const base = layers[overlay.depth + 1]?.path ?? null;
  if (base === null) throw new QmpBackupError('unsafe', `${overlay.path}: what is below it is no file of this host`);
  await commit(session, target, { top: overlay, base, goes: [overlay.path] }, options);
  return true;
}

/**
 * As `mergeOverlay`, of the image that the guest writes to at the moment. Resolves to false, and does nothing, where that is another.
 */
export async function mergeUppermost(
  { virsh, uuid, connect }: { readonly virsh: Virsh; readonly uuid: string; readonly connect: Connect },
  target: string,
  overlay: string,
): Promise<boolean> {
  const { name, active, disks } = parseDomain(await virsh('dumpxml', [], { domain: uuid }));
  const disk = disks.find((each) => each.target === target);
  const top = disk && layersOf(imagesOf(disk)).overlays.find(({ depth }) => depth === 0);
  if (top?.name !== overlay) return false;
  return mergeOverlay({ virsh, uuid, domain: { active, connect, name } }, target, overlay);
}

/**
 * Commits all overlays of ours above the disk's own image into it, and removes their files. Resolves to false, and does nothing, where the
 * disk is attached no more.
 */
export async function mergeAllOverlays(
  session: MergingDomain,
  target: string,
  options: CommitPace = {},
): Promise<boolean> {
  if ((await layersIfAttached(session, target)) === null) return false;
  await finishCommit(session, target);
  const { overlays, above, image } = layersOf(await layersNow(session, target));
  const [top] = overlays;
  if (!top) return true;
  if (!session.domain.active) throw whileOff(session, target, top);
  if (above.length > 0) throw underOthers(target, top, above);
  if (image.path === null) throw new QmpBackupError('unsafe', `${target}: its image is no file of this host`);
  const goes = overlays.map(({ path }) => path);
  await commit(session, target, { top, base: image.path, goes }, options);
  return true;
}

/** Commits all that is above `base` into it. Only files of overlays of ours are removed. */
export async function mergeChain(session: MergingDomain, target: string, base: string): Promise<void> {
  await finishCommit(session, target);
  const layers = await layersNow(session, target);
  const [top] = layers;
  if (top.path === null || top.path === base) return;
  const goes = layersOf(layers).overlays.map(({ path }) => path);
  await commit(session, target, { top: { path: top.path, depth: 0 }, base, goes }, {});
}

/** A job that a run which died has begun: libvirt goes on with it, and only the pivot at its end is missing. */
async function finishCommit(session: MergingDomain, target: string): Promise<void> {
  const { virsh, uuid, domain } = session;
  if (!domain.active) return;
  const job = await blockJobOf(virsh, uuid, target);
  if (job === null) return;
  const before = await layersNow(session, target);
  const ours = isOverlay(before[0].path?.split('/').pop() ?? '');
  if (!ours || (job.type !== ACTIVE_COMMIT && job.type !== COMMIT)) {
    const command = virshCommand(domain.connect, 'blockjob', domain.name, target);
    throw new QmpBackupError('unsafe', `${target} has a job of somebody else (${job.type})`, {
      hint: `Wait until it has ended: ${command} --info`,
    });
  }
  // A limit was that run's.
  await limitBlockJob(virsh, uuid, target, 0);
  await untilCommitted(session, target, { active: job.type === ACTIVE_COMMIT });
  await removeMerged(session, target, before);
  await settleRecords(session, [target]);
}

interface Commit {
  readonly top: Pick<OverlayLayer, 'path' | 'depth'>;
  readonly base: string;
  /** The overlays of ours whose files go with it. */
  readonly goes: readonly string[];
}

async function commit(
  session: MergingDomain,
  target: string,
  { top, base, goes }: Commit,
  options: CommitPace,
): Promise<void> {
  for (const path of goes) await refuseSnapshotsIn(session, target, path);
  const { virsh, uuid } = session;
  const { rate = 0 } = options;
  const before = await layersNow(session, target);
  const active = top.depth === 0;
  await announceChange(session, [target], { images: [base] });
  try {
    if (active) await startActiveCommit(virsh, uuid, target, { base, rate });
    else await startCommit(virsh, uuid, target, { top: top.path, base, rate });
  } catch (error) {
    if (!(error instanceof VirshError)) throw error;
    // The guard of a run that died may have been faster, or the run that follows it. What is not a commit is not ours to pivot.
    const job = await blockJobOf(virsh, uuid, target);
    if (job?.type !== (active ? ACTIVE_COMMIT : COMMIT)) throw error;
  }
  await untilCommitted(session, target, { ...options, active });
  const left = await removeMerged(session, target, before);
  await settleRecords(session, [target]);
  if (!left.some(({ path }) => path === top.path)) return;
  if (goes.includes(top.path)) await refuseSmaller(target, top.path, base);
  throw notMerged(session, target, top.path);
}

/**
 * An internal snapshot lies in the image that the guest wrote to when it was taken: it would go with the file of that overlay.
 *
 * @throws QmpBackupError `unsafe`
 */
export async function refuseSnapshotsIn(
  { domain }: Pick<MergingDomain, 'domain'>,
  target: string,
  path: string,
): Promise<void> {
  const { snapshots } = parseQcow2Header(await firstBytes(path, QCOW2_HEADER_BYTES));
  if (snapshots === 0) return;
  throw new QmpBackupError('unsafe', `${target}: ${path} holds a snapshot of the domain, which would go with it`, {
    hint: `Delete the snapshots first that were taken since: ${virshCommand(domain.connect, 'snapshot-list', domain.name)}`,
  });
}

/** Milliseconds between two looks. */
const FIRST_POLL_MS = 20;
const LAST_POLL_MS = 1_000;
/** The total of a job that has not counted yet what there is to do, in libvirt's answer. Bytes. */
const NOT_COUNTED = 1;

/**
 * A guest that writes faster than the limit would keep an active commit going for ever: once it has copied twice what there was to
 * copy at first it is limited no more.
 */
async function untilCommitted(
  { virsh, uuid }: MergingDomain,
  target: string,
  { active, rate = 0, hurry }: CommitPace & { readonly active: boolean },
): Promise<void> {
  let limited = rate > 0;
  let first: DiskJob | null = null;
  for (let pause = FIRST_POLL_MS; ; pause = Math.min(2 * pause, LAST_POLL_MS)) {
    try {
      if (active && (await pivot(virsh, uuid, target))) return;
      if (!active || limited) {
        const job = await blockJobOf(virsh, uuid, target);
        if (job === null) return;
        if (job.total > NOT_COUNTED) first ??= job;
        if (limited && (hurry?.aborted || (first && job.done > 2 * first.total))) {
          await limitBlockJob(virsh, uuid, target, 0);
          limited = false;
        }
      }
    } catch (error) {
      // It has failed, or its domain has ended: the chain tells.
      if (error instanceof VirshError && (error.reason === 'no-job' || error.reason === 'not-running')) return;
      throw error;
    }
    await sleep(pause);
  }
}

/**
 * Removes the files of our overlays that were in a disk's chain and are in it no more: neither as the domain runs nor as it will
 * be started. Resolves to what is left in the chain.
 */
async function removeMerged(session: MergingDomain, target: string, before: ImageLayers): Promise<ImageLayers> {
  const { virsh, uuid } = session;
  const now = await layersNow(session, target);
  const next = parseDomain(await dumpDefinition(virsh, uuid)).disks.flatMap((disk) => imagesOf(disk));
  const named = new Set([...now, ...next].map(({ path }) => path));
  const gone = layersOf(before).overlays.filter(({ path }) => !named.has(path));
  for (const { path } of gone) await removeOverlayFile(path);
  return now;
}

export async function removeOverlayFile(path: string): Promise<void> {
  try {
    await rm(path, { force: true });
    await syncFolder(dirname(path));
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return;
    throw fileError('remove', path, error);
  }
}

function whileOff({ domain }: MergingDomain, target: string, { path }: OverlayLayer): QmpBackupError {
  return new QmpBackupError('unsafe', `${target}: ${path} is merged by libvirt while the domain runs, and it is off`, {
    hint: `No data is at risk: the domain starts with it. Start it, then run this again: ${virshCommand(domain.connect, 'start', domain.name)}`,
  });
}

function underOthers(target: string, { path }: OverlayLayer, above: readonly ImageLayer[]): QmpBackupError {
  const others = above.map(({ description }) => description).join(', ');
  return new QmpBackupError('unsafe', `${target}: somebody has put ${others} above ${path}, which needs it as it is`, {
    hint: 'Delete or commit that snapshot first (virsh snapshot-delete, virsh blockcommit).',
  });
}

/** A file grows with a commit. @throws QmpBackupError `failed` where the base is a device that is smaller than the disk has become */
async function refuseSmaller(target: string, overlay: string, base: string): Promise<void> {
  const size = await deviceSize(base);
  const { virtualSize } = parseQcow2Header(await firstBytes(overlay, QCOW2_HEADER_BYTES));
  if (size === null || size >= virtualSize) return;
  const sizes = `the disk was grown to ${formatBytes(virtualSize)}, and ${base} has ${formatBytes(size)}`;
  const words = `${target}: ${overlay} could not be merged: ${sizes}; extend that device (as by lvextend)`;
  throw new QmpBackupError('failed', words, {
    hint: 'No data is at risk: the guest goes on with the overlay. Run this again when the device is as large as the disk.',
  });
}

function notMerged({ domain }: MergingDomain, target: string, path: string): QmpBackupError {
  return new QmpBackupError('failed', `${target}: ${path} could not be merged into the image below it`, {
    hint: `No data is at risk: the guest goes on with it. See whether the storage of that image is full, and the log of the domain ${domain.name} in /var/log/libvirt/qemu.`,
  });
}

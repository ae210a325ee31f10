import { rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type ImageLayer, layersOf, type OverlayLayer } from '../../core/overlay-layers.js';
import { isOverlay } from '../../core/overlay-names.js';
import { virshCommand } from '../../core/virsh-hint.js';
import { QmpBackupError } from '../../errors.js';
import { syncFolder } from '../../host/durable.js';
import { codeOf, fileError } from '../../host/file-errors.js';
import { isThere } from '../../host/is-there.js';
import { ACTIVE_COMMIT, COMMIT, pivot, startActiveCommit, startCommit } from '../../libvirt/block-commit.js';
import { blockJobOf } from '../../libvirt/block-jobs.js';
import { dumpDefinition } from '../../libvirt/domain.js';
import { parseDomain } from '../../libvirt/domain-xml.js';
import { VirshError } from '../../libvirt/errors.js';
import { isBeingWritten } from '../../qemu-tools/in-use.js';
import { allocatedIn } from '../../qemu-tools/steps.js';
import { blockJobCommand, type DomainSession, imagesOf } from './session.js';

/** Overlays above the disks of a domain, and how they go again: by a commit into what is below them, while the guest runs. */

type Domain = Pick<DomainSession, 'virsh' | 'uuid' | 'domain'>;
type Layers = readonly [ImageLayer, ...ImageLayer[]];

/** The images of a disk at this moment, the uppermost first. */
export async function layersNow({ virsh, uuid }: Domain, target: string): Promise<Layers> {
  const { disks } = parseDomain(await virsh('dumpxml', [], { domain: uuid }));
  const disk = disks.find((each) => each.target === target);
  if (disk) return imagesOf(disk);
  throw new QmpBackupError('failed', `the domain has no disk ${target} any more`);
}

/**
 * Commits one overlay of ours into the image below it, and removes its file. One that is in no chain any more needs nothing. What a
 * run that died has begun of that is finished first.
 *
 * @throws QmpBackupError `unsafe` where the domain is off, or somebody else has put something above it; `failed` where the commit failed
 */
export async function mergeOverlay(session: Domain, target: string, name: string): Promise<void> {
  await finishCommit(session, target);
  const layers = await layersNow(session, target);
  const { overlays, above } = layersOf(layers);
  const overlay = overlays.find((each) => each.name === name);
  if (!overlay) return;
  if (!session.domain.active) throw whileOff(session, target, overlay);
  if (above.length > 0) throw underOthers(target, overlay, above);
  const base = layers[overlay.depth + 1]?.path ?? null;
  if (base === null) throw new QmpBackupError('unsafe', `${overlay.path}: what is below it is no file of this host`);
  await commit(session, target, { top: overlay, base });
}

/** Commits all overlays of ours above the disk's own image into it, and removes their files. Resolves to their paths. */
export async function mergeAllOverlays(session: Domain, target: string): Promise<readonly string[]> {
  await finishCommit(session, target);
  const { overlays, above, image } = layersOf(await layersNow(session, target));
  const [top] = overlays;
  if (!top) return [];
  if (!session.domain.active) throw whileOff(session, target, top);
  if (above.length > 0) throw underOthers(target, top, above);
  if (image.path === null) throw new QmpBackupError('unsafe', `${target}: its image is no file of this host`);
  await commit(session, target, { top, base: image.path });
  return overlays.map(({ path }) => path);
}

/** Commits all that is above `base` into it. Only files of overlays of ours are removed. */
export async function mergeChain(session: Domain, target: string, base: string): Promise<void> {
  await finishCommit(session, target);
  const [top] = await layersNow(session, target);
  if (top.path === null || top.path === base) return;
  await commit(session, target, { top: { path: top.path, depth: 0 }, base });
}

/** A job that a run which died has begun: libvirt goes on with it, and only the pivot at its end is missing. */
async function finishCommit(session: Domain, target: string): Promise<void> {
  const { virsh, uuid, domain } = session;
  if (!domain.active) return;
  const job = await blockJobOf(virsh, uuid, target);
  if (job === null) return;
  const before = await layersNow(session, target);
  const ours = isOverlay(before[0].path?.split('/').pop() ?? '');
  if (!ours || (job.type !== ACTIVE_COMMIT && job.type !== COMMIT)) {
    const command = blockJobCommand(domain, target);
    throw new QmpBackupError('unsafe', `${target} has a job of somebody else (${job.type})`, {
      hint: `Wait until it has ended: ${command} --info`,
    });
  }
  await untilCommitted(session, target, job.type === ACTIVE_COMMIT);
  await removeMerged(session, target, before);
}

async function commit(
  session: Domain,
  target: string,
  { top, base }: { readonly top: Pick<OverlayLayer, 'path' | 'depth'>; readonly base: string },
): Promise<void> {
  const { virsh, uuid } = session;
  const before = await layersNow(session, target);
  const active = top.depth === 0;
  if (active) await startActiveCommit(virsh, uuid, target, base);
  else await startCommit(virsh, uuid, target, { top: top.path, base });
  await untilCommitted(session, target, active);
  const left = await removeMerged(session, target, before);
  if (left.some(({ path }) => path === top.path)) throw notMerged(session, target, top.path);
}

/** Milliseconds between two looks. */
const FIRST_POLL_MS = 20;
const LAST_POLL_MS = 1_000;

async function untilCommitted({ virsh, uuid }: Domain, target: string, active: boolean): Promise<void> {
  for (let pause = FIRST_POLL_MS; ; pause = Math.min(2 * pause, LAST_POLL_MS)) {
    try {
      if (active ? await pivot(virsh, uuid, target) : (await blockJobOf(virsh, uuid, target)) === null) return;
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
async function removeMerged(session: Domain, target: string, before: Layers): Promise<Layers> {
  const { virsh, uuid } = session;
  const now = await layersNow(session, target);
  const next = parseDomain(await dumpDefinition(virsh, uuid)).disks.flatMap((disk) => imagesOf(disk));
  const named = new Set([...now, ...next].map(({ path }) => path));
  const gone = layersOf(before).overlays.filter(({ path }) => !named.has(path));
  for (const { path } of gone) await removeOverlayFile(path);
  return now;
}

async function removeOverlayFile(path: string): Promise<void> {
  try {
    await rm(path, { force: true });
    await syncFolder(dirname(path));
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return;
    throw fileError('remove', path, error);
  }
}

/**
 * Removes an overlay that is in no chain of a running domain. `merged`: it was, and what it holds has gone down; one of which that is
 * not known is only removed where it holds nothing. Resolves to why it is left, in words.
 */
export async function removeStrayOverlay(
  { virsh, uuid }: Domain,
  { path, merged }: { readonly path: string; readonly merged: boolean },
): Promise<string | null> {
  if (!isOverlay(path.split('/').pop() ?? '') || !path.startsWith('/') || !(await isThere(path))) return null;
  const [live, next] = await Promise.all([virsh('dumpxml', [], { domain: uuid }), dumpDefinition(virsh, uuid)]);
  const named = [live, next].flatMap((xml) => parseDomain(xml).disks.flatMap((disk) => imagesOf(disk)));
  if (named.some((each) => each.path === path)) return `${path} is needed by the domain`;
  if (await isBeingWritten(path)) return `${path} is open in a QEMU, and libvirt knows nothing of it`;
  if (!merged && (await allocatedIn(path)) > 0) {
    return `${path} is above no disk, and holds what a guest has written: libvirt was lost while it made the overlay, and the QEMU then`;
  }
  await removeOverlayFile(path);
  return null;
}

function whileOff({ domain }: Domain, target: string, { path }: OverlayLayer): QmpBackupError {
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

function notMerged({ domain }: Domain, target: string, path: string): QmpBackupError {
  return new QmpBackupError('failed', `${target}: ${path} could not be merged into the image below it`, {
    hint: `No data is at risk: the guest goes on with it. See whether the storage of that image is full, and the log of the domain ${domain.name} in /var/log/libvirt/qemu.`,
  });
}

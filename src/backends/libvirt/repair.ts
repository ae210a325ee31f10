import { setTimeout as sleep } from 'node:timers/promises';
import type { VmState } from '../../core/disk.js';
import { bitmapsOfDead, onlyBitmaps } from '../../core/journal-parts.js';
import { lostCheckpoints } from '../../core/lost-checkpoints.js';
import { isTrackingOverlay } from '../../core/overlay-names.js';
import { reconcileVm, type RedefineCheckpoint, type RepairAction } from '../../core/reconcile.js';
import { domainCommand, virshCommand } from '../../core/virsh-hint.js';
import { type Warning, warning } from '../../core/warning.js';
import { messageOf, QmpBackupError } from '../../errors.js';
import { deleteCheckpoint, endBackup, redefineCheckpoint, thaw } from '../../libvirt/backup.js';
import { inspectDomain, listCheckpoints } from '../../libvirt/domain.js';
import { isOutcomeUnknown, thawDomainByHand, VirshError } from '../../libvirt/errors.js';
import { resumeStalled } from '../../libvirt/lifecycle.js';
import { imagesOf } from '../../libvirt/image-layers.js';
import { mergeOverlay, type CommitPace } from '../../libvirt/merge-overlays.js';
import { announceChange, forgetOverlay, markTold, settleRecords } from '../../libvirt/still-images.js';
import { writeJournal } from '../../repository/journal-file.js';
import type { TargetState } from '../../repository/target.js';
import { carryOutInTarget, observeRepairs, type RepairReport } from '../repair.js';
import { removeFromImages } from './offline-bitmaps.js';
import { orphanBitmaps, redefineOrphan } from './orphan-bitmaps.js';
import { type DomainSession, stateOf } from './session.js';
import { endStarted } from './start-paused.js';
import { neededLater, removeStrayOverlay, uppermostFirst } from './stray-overlay.js';

/**
 * What a dead run left, and the checkpoints that libvirt forgot. Of those that go on only a running domain can say if their bitmaps are
 * whole; those that are to go are looked for in the images of one that is off, too.
 */
export async function observeDomainRepairs(
  session: Pick<DomainSession, 'virsh' | 'uuid' | 'domain'>,
  target: TargetState,
  vm: VmState,
): Promise<readonly RepairAction[]> {
  const { domain } = session;
  const actions = await observeRepairs(target, vm);
  const gone = new Set(actions.flatMap((action) => (action.kind === 'remove-bitmap' ? [action.bitmap] : [])));
  const staysAsItIs = !actions.some(({ kind }) => kind === 'end-domain');
  const lost = domain.active && staysAsItIs ? lostCheckpoints(target.catalog, vm.disks) : [];
  const orphans = staysAsItIs ? await orphansOfDead(domain, target, vm) : [];
  // The guest goes on first, and the journal goes last.
  const first = actions.findIndex(({ kind }) => !GUEST_FIRST.includes(kind));
  const before = first < 0 ? actions.length : first;
  const strays = strayOverlays(domain).filter(
    ({ path }) => !actions.some((each) => 'path' in each && each.path === path),
  );
  return withoutNeeded(session, [
    ...[...actions.slice(0, before), ...orphans, ...strays, ...actions.slice(before)],
    ...lost.filter(({ checkpoint }) => !gone.has(checkpoint)),
  ]);
}

/**
 * A disk that was unplugged from the running domain alone has its overlays again when that starts. Of those that go, each goes before what
 * it builds on.
 */
async function withoutNeeded(
  session: Pick<DomainSession, 'virsh' | 'uuid'>,
  actions: readonly RepairAction[],
): Promise<readonly RepairAction[]> {
  const first = actions.findIndex(isDeleteOverlay);
  if (first < 0) return actions;
  const deleted = overlaysToDelete(actions);
  const needed = await neededLater(session, deleted);
  const ordered = (await uppermostFirst(deleted))
    .filter((path) => !needed.has(path))
    .map((path): DeleteOverlay => ({ kind: 'delete-overlay', path }));
  return [...actions.slice(0, first), ...ordered, ...actions.slice(first).filter((each) => !isDeleteOverlay(each))];
}

function overlaysToDelete(actions: readonly RepairAction[]): readonly string[] {
  return actions.filter(isDeleteOverlay).map(({ path }) => path);
}

/**
 * Overlays that tracked, and are in the chain of no disk any more: who has merged them ended before their files were removed, or the disk
 * was detached, which is told once.
 */
function strayOverlays({ disks, overlayRecords }: DomainSession['domain']): readonly DeleteOverlay[] {
  const chained = new Set(disks.flatMap((disk) => imagesOf(disk).map(({ path }) => path)));
  return overlayRecords.flatMap(({ overlay: path, told }) =>
    told || chained.has(path) ? [] : [{ kind: 'delete-overlay', path }],
  );
}

type DeleteOverlay = Extract<RepairAction, { readonly kind: 'delete-overlay' }>;

function isDeleteOverlay(action: RepairAction): action is DeleteOverlay {
  return action.kind === 'delete-overlay';
}

const GUEST_FIRST: readonly RepairAction['kind'][] = ['continue', 'thaw', 'end-job', 'delete-scratch'];

/** Bitmaps of a run that died that libvirt has forgotten, and that go on recording. */
async function orphansOfDead(
  domain: DomainSession['domain'],
  target: TargetState,
  state: VmState,
): Promise<readonly RepairAction[]> {
  const names = new Set(bitmapsOfDead(target).map(({ bitmap }) => bitmap));
  if (domain.checkpoints.some(({ name }) => names.has(name)) || names.size === 0) return [];
  const why = 'made by a run that died, and libvirt has forgotten it';
  return (await orphanBitmaps({ domain, state }, { skipUnreadable: true }))
    .filter(({ bitmap }) => names.has(bitmap))
    .map(({ target: node, bitmap }) => ({ kind: 'remove-bitmap', node, bitmap, why }));
}

/** Carries out on a libvirt domain what reconcile decided: a job is its backup job, a bitmap is a checkpoint. */
export async function repairDomain(
  session: DomainSession,
  target: TargetState,
  vm: VmState,
): Promise<{ readonly vm: VmState; readonly report: RepairReport }> {
  return carriedOut(session, target, vm, await observeDomainRepairs(session, target, vm));
}

/** What dead runs left in the domain, where no target is known. */
export async function repairDomainAlone(
  session: DomainSession,
  vm: VmState,
): Promise<{ readonly vm: VmState; readonly report: RepairReport }> {
  return carriedOut(session, { target: '', journal: undefined }, vm, await repairsAlone(session, vm));
}

export function repairsAlone(session: DomainSession, vm: VmState): Promise<readonly RepairAction[]> {
  return withoutNeeded(session, [...reconcileVm(vm), ...strayOverlays(session.domain)]);
}

/**
 * libvirt pauses a guest whose old data does not fit into a scratch image, and nothing of libvirt lets it go on. Resolves
 * to what is to be said of it.
 */
export async function resumeAfterIoError({ virsh, uuid, domain }: DomainSession): Promise<readonly Warning[]> {
  const paused = 'the guest was paused by a write that failed, as when the space for its backup gave out';
  try {
    return (await resumeStalled(virsh, uuid)) ? [warning('guest-paused', `${paused}; it goes on now`)] : [];
  } catch (error) {
    if (!(error instanceof VirshError)) throw error;
    return [
      warning(
        'guest-paused',
        `${paused}, and does not go on: ${error.words}. When that is mended: ${virshCommand(domain.connect, 'resume', domain.name)}`,
      ),
    ];
  }
}

/**
 * The domain is looked at again only where something was done. What cannot be done now does not hold up the rest; the
 * journal stays with just that.
 */
async function carriedOut(
  session: DomainSession,
  { target, journal }: Pick<TargetState, 'target' | 'journal'>,
  vm: VmState,
  actions: readonly RepairAction[],
): Promise<{ readonly vm: VmState; readonly report: RepairReport }> {
  if (actions.length === 0) return { vm, report: { actions, warnings: [] } };
  const warnings: Warning[] = [];
  const done: RepairAction[] = [];
  const dropped = new Set<string>();
  const stuck = new Set<string>();
  const waiting = new Set<string>();
  let frozen = false;
  let resumed = false;
  for (const action of actions) {
    switch (action.kind) {
      case 'thaw':
        frozen = !(await thawAgain(session, warnings));
        break;
      case 'end-job':
        await endBackup(session.virsh, session.uuid, { sleep });
        resumed = session.domain.backup?.mode === 'pull';
        if (resumed) warnings.push(...(await resumeAfterIoError(session)));
        break;
      case 'delete-scratch':
        await carryOutInTarget(target, action, warnings);
        // The job has ended, and not the run that would have let the guest go on.
        if (!resumed && session.domain.active) warnings.push(...(await resumeAfterIoError(session)));
        resumed = true;
        break;
      case 'merge-overlay':
        if (await mergeOrWarn(session, action.target, action.overlay, warnings)) break;
        continue;
      case 'delete-overlay': {
        // Of a domain that is off nobody tells all that its disks build on.
        const others = [...overlaysToDelete(actions), ...session.domain.overlayRecords.map(({ overlay }) => overlay)];
        const left = session.domain.active ? await removeStrayOverlay(session, action.path, others) : undefined;
        if (left === undefined) {
          waiting.add(action.path);
          continue;
        }
        if (left === null) {
          await forgetOverlay(session, action.path);
          break;
        }
        warnings.push(warning('left-behind', left.why));
        if (left.lasts) await markTold(session, action.path);
        else waiting.add(action.path);
        continue;
      }
      case 'remove-bitmap':
        if (isTrackingOverlay(action.bitmap)) {
          if (await mergeOrWarn(session, action.node, action.bitmap, warnings)) break;
          stuck.add(action.bitmap);
          continue;
        }
        if (!dropped.has(action.bitmap) && !(await dropOrWarn(session, action.bitmap, warnings))) {
          stuck.add(action.bitmap);
        }
        dropped.add(action.bitmap);
        break;
      case 'redefine-checkpoint': {
        const disks = await redefineLost(session, action);
        if (disks.length > 0) done.push({ ...action, disks });
        continue;
      }
      case 'end-domain': {
        const left = action.domain === session.uuid ? await endStarted(session) : null;
        if (left !== null) warnings.push(left);
        break;
      }
      case 'remove-journal':
        if (journal && (frozen || stuck.size > 0 || waiting.size > 0)) {
          const freezes = frozen ? journal.freezes : null;
          const disks = journal.disks.filter(({ bitmap }) => bitmap !== null && stuck.has(bitmap));
          const overlays = journal.overlays?.filter(
            ({ path }) => waiting.has(path) || stuck.has(path.split('/').pop() ?? ''),
          );
          await writeJournal(target, { ...onlyBitmaps(journal, disks), freezes, starts: undefined, overlays });
          continue;
        }
        await carryOutInTarget(target, action, warnings);
        break;
      default:
        await carryOutInTarget(target, action, warnings);
    }
    done.push(action);
  }
  return {
    vm: await stateOf(session.virsh, await inspectDomain(session.virsh, session.uuid)),
    report: { actions: done, warnings },
  };
}

/**
 * libvirt forgets checkpoints with the domain (undefined, or moved to another host); the bitmaps live on in the images.
 * Only those are taken back that libvirt itself finds there and consistent. Resolves to their disks.
 */
async function redefineLost(
  { virsh, uuid, domain }: DomainSession,
  { checkpoint: name, createdAt, disks: lost }: RedefineCheckpoint,
): Promise<readonly string[]> {
  const creationTime = Math.floor(Date.parse(createdAt) / 1000);
  let disks = [...lost];
  while (disks.length > 0) {
    const without = domain.disks.map(({ target }) => target).filter((target) => !disks.includes(target));
    try {
      await redefineCheckpoint(virsh, uuid, { name, creationTime, disks, without }, { validate: true });
      return disks;
    } catch (error) {
      if (!(error instanceof VirshError) || error.reason !== 'bitmap-broken') throw error;
      const broken = error.brokenBitmap?.target;
      if (broken === undefined || !disks.includes(broken)) return [];
      disks = disks.filter((target) => target !== broken);
    }
  }
  return [];
}

/**
 * Deletes checkpoints, each once, for all disks that have it; resolves to what could not be deleted now, in words.
 */
export async function dropCheckpoints(session: DomainSession, names: readonly string[]): Promise<readonly Warning[]> {
  const warnings: Warning[] = [];
  for (const name of new Set(names)) await dropOrWarn(session, name, warnings);
  return warnings;
}

/** What the newest point made superfluous: checkpoints, and overlays, which go down into the image below them. */
export async function dropSuperfluous(
  session: DomainSession,
  actions: readonly RepairAction[],
  merging: CommitPace,
): Promise<readonly Warning[]> {
  const removed = actions.filter((action) => action.kind === 'remove-bitmap');
  const overlays = removed.filter(({ bitmap }) => isTrackingOverlay(bitmap));
  const names = removed.filter((each) => !overlays.includes(each)).map(({ bitmap }) => bitmap);
  const warnings = [...(await dropCheckpoints(session, names))];
  for (const { node, bitmap } of overlays) await mergeOrWarn(session, node, bitmap, warnings, merging);
  return warnings;
}

/** False where it cannot be done now, which must not hold up a backup: the guest goes on with the overlay. */
async function mergeOrWarn(
  session: DomainSession,
  target: string,
  overlay: string,
  warnings: Warning[],
  merging?: CommitPace,
): Promise<boolean> {
  const stays = (why: string): false => {
    warnings.push(warning('overlay-left', `an overlay of an earlier run stays for now: ${why}`));
    return false;
  };
  try {
    if (await mergeOverlay(session, target, overlay, merging)) return true;
    return stays(`${target} is attached no more, and ${overlay} holds what the guest wrote to it`);
  } catch (error) {
    if (!(error instanceof QmpBackupError) || isOutcomeUnknown(error)) throw error;
    return stays(messageOf(error));
  }
}

/** False where an image cannot be written now: its checkpoint stays known, and this must not hold up every backup. */
async function dropOrWarn(session: DomainSession, name: string, warnings: Warning[]): Promise<boolean> {
  try {
    await dropCheckpoint(session, name);
    return true;
  } catch (error) {
    const { domain } = session;
    const refused = domain.active
      ? error instanceof VirshError && error.reason === 'other'
      : error instanceof QmpBackupError;
    if (!refused) throw error;
    const todo = domainCommand(domain.connect, domain.name, 'cleanup', '--remove-bitmaps', '--stale');
    const words = `the bitmap ${name} of an earlier run cannot be removed now: ${messageOf(error)}`;
    warnings.push(warning('bitmap-stuck', `${words}; later: ${todo} --target DIR …`));
    return false;
  }
}

/**
 * libvirt deletes a checkpoint only when every disk of it has its bitmap. Where one is missing, it is told of the others
 * first, so that none stays behind. Of a domain that is off it deletes what it knows and no bitmap: those go from the images
 * first.
 */
export async function dropCheckpoint(session: DomainSession, name: string): Promise<void> {
  // libvirt takes its bitmaps out of the images below an overlay, too.
  const targets = session.domain.overlayRecords.length > 0 ? session.domain.disks.map(({ target }) => target) : [];
  if (targets.length > 0) await announceChange(session, targets);
  await dropBitmapsOf(session, name);
  if (targets.length > 0) await settleRecords(session, targets);
}

async function dropBitmapsOf(session: DomainSession, name: string): Promise<void> {
  const { virsh, uuid, domain } = session;
  try {
    if (!domain.active) await removeFromImages(domain, name);
    await deleteCheckpoint(virsh, uuid, name, { metadataOnly: !domain.active });
  } catch (error) {
    if (!(error instanceof VirshError)) throw error;
    if (error.reason === 'no-checkpoint') return dropOrphans(session, name);
    if (error.reason !== 'bitmap-broken') throw error;
    await dropWithoutMissing(session, name, error);
  }
}

/** libvirt names one missing bitmap at a time. */
async function dropWithoutMissing(
  { virsh, uuid, domain }: DomainSession,
  name: string,
  refusal: VirshError,
): Promise<void> {
  const checkpoint = (await listCheckpoints(virsh, uuid, { sizes: false })).find((each) => each.name === name);
  let left = checkpoint?.disks.map(({ target }) => target) ?? [];
  let missing = refusal.brokenBitmap?.target;
  while (checkpoint && left.length > 1 && missing !== undefined && left.includes(missing)) {
    left = left.filter((target) => target !== missing);
    const without = domain.disks.map(({ target }) => target).filter((target) => !left.includes(target));
    await redefineCheckpoint(virsh, uuid, { ...checkpoint, disks: left, without }, { validate: false });
    try {
      return await deleteCheckpoint(virsh, uuid, name);
    } catch (error) {
      if (!(error instanceof VirshError) || error.reason !== 'bitmap-broken') throw error;
      missing = error.brokenBitmap?.target;
    }
  }
  await deleteCheckpoint(virsh, uuid, name, { metadataOnly: true });
}

/** libvirt removes only bitmaps of checkpoints that it knows. */
async function dropOrphans(session: DomainSession, name: string): Promise<void> {
  if (!session.domain.active) return;
  const orphans = await orphanBitmaps(session, { skipUnreadable: true });
  const targets = orphans.flatMap(({ target, bitmap }) => (bitmap === name ? [target] : []));
  if (targets.length === 0) return;
  await redefineOrphan(session, name, targets);
  await deleteCheckpoint(session.virsh, session.uuid, name);
}

/** False for an agent that cannot be asked now, which must not hold up a backup. */
async function thawAgain({ virsh, uuid, domain }: DomainSession, warnings: Warning[]): Promise<boolean> {
  if (!domain.active) return true;
  try {
    await thaw(virsh, uuid, { timeoutMs: THAW_MS });
    return true;
  } catch (error) {
    const words = `an earlier run may have left the guest frozen, and it cannot be thawed: ${messageOf(error)}`;
    warnings.push(warning('guest-frozen', `${words}. If the guest hangs, thaw it: ${thawDomainByHand(domain)}`));
    return false;
  }
}

const THAW_MS = 15_000;

import { setTimeout as sleep } from 'node:timers/promises';
import type { VmState } from '../domain/disk.js';
import { type LostCheckpoint, lostCheckpoints } from '../domain/lost-checkpoints.js';
import type { RepairAction } from '../domain/reconcile.js';
import { messageOf } from '../errors.js';
import { deleteCheckpoint, endBackup, redefineCheckpoint, thaw } from '../libvirt/backup.js';
import { inspectDomain, listCheckpoints } from '../libvirt/domain.js';
import { VirshError } from '../libvirt/errors.js';
import type { DomainSession } from './domain-session.js';
import { vmStateOf } from './domain-session.js';
import type { TargetState } from './open-target.js';
import { carryOutInTarget, observeRepairs, type RepairReport } from './repair.js';

/** Carries out on a libvirt domain what reconcile decided: a job is its backup job, a bitmap is a checkpoint. */
export async function repairDomain(
  session: DomainSession,
  target: TargetState,
  vm: VmState,
): Promise<{ readonly vm: VmState; readonly report: RepairReport }> {
  const actions = await observeRepairs(target, vm);
  const lost = session.domain.active ? lostCheckpoints(target.catalog, vm.disks) : [];
  if (actions.length === 0 && lost.length === 0) return { vm, report: { actions, warnings: [] } };
  const warnings: string[] = [];
  const gone = new Set<string>();
  for (const action of actions) {
    if (action.kind === 'thaw') await thawAgain(session, warnings);
    else await carryOutInTarget(target.target, action, warnings);
    if (action.kind === 'end-job') await endBackup(session.virsh, session.uuid, { sleep });
    if (action.kind !== 'remove-bitmap' || gone.has(action.bitmap)) continue;
    gone.add(action.bitmap);
    await dropCheckpoint(session, action.bitmap);
  }
  for (const checkpoint of lost) {
    if (!gone.has(checkpoint.name)) await redefineLost(session, checkpoint);
  }
  return { vm: vmStateOf(await inspectDomain(session.virsh, session.uuid)), report: { actions, warnings } };
}

/**
 * libvirt forgets checkpoints with the domain (undefined, or moved to another host); the bitmaps live on in the images.
 * Only those are taken back that libvirt itself finds there and consistent.
 */
async function redefineLost({ virsh, uuid, domain }: DomainSession, lost: LostCheckpoint): Promise<void> {
  const { name, createdAt } = lost;
  const creationTime = Math.floor(Date.parse(createdAt) / 1000);
  let disks = [...lost.disks];
  while (disks.length > 0) {
    const without = domain.disks.map(({ target }) => target).filter((target) => !disks.includes(target));
    try {
      return await redefineCheckpoint(virsh, uuid, { name, creationTime, disks, without }, { validate: true });
    } catch (error) {
      if (!(error instanceof VirshError) || error.reason !== 'bitmap-broken') throw error;
      const broken = error.brokenBitmap?.target;
      if (broken === undefined || !disks.includes(broken)) return;
      disks = disks.filter((target) => target !== broken);
    }
  }
}

/** Deletes the checkpoints whose bitmaps the actions remove: each once, for all disks that have it. */
export async function dropCheckpoints(session: DomainSession, actions: readonly RepairAction[]): Promise<void> {
  const names = actions.flatMap((action) => (action.kind === 'remove-bitmap' ? [action.bitmap] : []));
  for (const name of new Set(names)) await dropCheckpoint(session, name);
}

/**
 * libvirt deletes a checkpoint only when every disk of it has its bitmap. Where one is missing, it is told of those
 * that are there first, so that none stays behind.
 */
async function dropCheckpoint(session: DomainSession, name: string): Promise<void> {
  const { virsh, uuid } = session;
  try {
    await deleteCheckpoint(virsh, uuid, name, { metadataOnly: !session.domain.active });
    return;
  } catch (error) {
    if (!(error instanceof VirshError)) throw error;
    if (error.reason === 'no-checkpoint') return;
    if (error.reason !== 'bitmap-broken') throw error;
  }
  const checkpoint = (await listCheckpoints(virsh, uuid, { sizes: true })).find((each) => each.name === name);
  const left = checkpoint?.disks.filter(({ changedBytes }) => changedBytes !== null).map(({ target }) => target) ?? [];
  if (checkpoint && left.length > 0) {
    const others = session.domain.disks.map(({ target }) => target).filter((target) => !left.includes(target));
    await redefineCheckpoint(virsh, uuid, { ...checkpoint, disks: left, without: others }, { validate: false });
  }
  await deleteCheckpoint(virsh, uuid, name, { metadataOnly: left.length === 0 });
}

/** An agent that cannot be asked must not hold up every backup: a guest that was started anew is not frozen. */
async function thawAgain({ virsh, uuid, domain }: DomainSession, warnings: string[]): Promise<void> {
  if (!domain.active) return;
  try {
    await thaw(virsh, uuid, { timeoutMs: THAW_MS });
  } catch (error) {
    const words = `an earlier run may have left the guest frozen, and it cannot be thawed: ${messageOf(error)}`;
    warnings.push(`${words}. If the guest hangs, thaw it: virsh domfsthaw ${domain.name}`);
  }
}

const THAW_MS = 15_000;

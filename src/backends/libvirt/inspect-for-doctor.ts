import { access, constants, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { type Failure, isFailure } from '../../core/failure.js';
import type { DirtyBitmap, SourceDisk } from '../../core/disk.js';
import type { FleeceChoice } from '../../core/fleece-choice.js';
import { matchDisks } from '../../core/match-disks.js';
import { isOurBitmap } from '../../core/names.js';
import { isTrackingOverlay } from '../../core/overlay-names.js';
import type { DomainAgentFacts, DomainFacts, ScratchFacts } from '../../doctor/domain-facts.js';
import { collectFailure } from '../../flow/collect-failure.js';
import type { Unwind } from '../../flow/unwind.js';
import { codeOf, fileError } from '../../host/file-errors.js';
import { ANSWER_MS, freeSpace } from '../../host/free-space.js';
import { askAgent, askConnection, listSnapshots } from '../../libvirt/connection.js';
import type { DomainState } from '../../libvirt/domain-state.js';
import { createVirsh, type Virsh } from '../../libvirt/virsh.js';
import { missingPrograms } from '../../qemu-tools/missing-programs.js';
import { scratchPlace, TEMPORARY } from '../../repository/scratch-place.js';
import { chooseMethod } from './choose-method.js';
import { withImageBitmaps } from './offline-bitmaps.js';
import { inspectOfflineDomain } from './offline-domain.js';
import { overlayObstacles } from './overlay-obstacles.js';
import { namedFolders, overlaySpaces } from './overlay-space.js';
import { type DomainAccess, type DomainSession, openDomain } from './session.js';
import { detachedOverlays } from './stray-overlay.js';

/** Milliseconds. */
const AGENT_MS = 8_000;

export interface SeenDomain {
  readonly session: DomainSession;
  readonly facts: DomainFacts;
  /** Where overlays lie that were not put beside their images. */
  readonly overlayFolders: readonly string[] | Failure;
  /** How the next backup keeps the instant. */
  readonly fleecing: FleeceChoice;
}

/**
 * What doctor sees of a domain, under its lock. Changes nothing.
 *
 * @throws QmpBackupError when libvirt or the domain cannot be looked at
 */
export async function inspectDomainForDoctor(
  { fleeceDir, ...address }: DomainAccess & { readonly fleeceDir: string | null },
  unwind: Unwind,
): Promise<SeenDomain> {
  const virsh = createVirsh(address.connect ?? undefined);
  const connection = await askConnection(virsh);
  const session = await openDomain(address, unwind);
  const { domain, uuid } = session;
  const state = domain.active ? session.state : await whileOff(session);
  const disks = matchDisks(undefined, state.disks);
  const tracked = disks.flatMap(({ id, source }) =>
    source.overlays?.some(({ name }) => isTrackingOverlay(name)) ? { disk: id, source } : [],
  );
  const [snapshots, agent, scratch, missing, method, overlays, folders, obstacles, detached] = await Promise.all([
    listSnapshots(virsh, uuid),
    inspectAgent(virsh, domain),
    domain.active ? inspectScratch(domain, state, fleeceDir) : [],
    missingPrograms(PULL_PROGRAMS),
    chooseMethod(session, { method: 'auto', track: 'none' }),
    collectFailure(overlaySpaces(session.state.disks)),
    collectFailure(namedFolders(session.state.disks)),
    domain.active && tracked.length > 0 ? collectFailure(overlayObstacles(session, tracked)) : [],
    collectFailure(detachedOverlays(session)),
  ]);
  return {
    session: { ...session, state },
    fleecing: domain.active ? method.fleecing : STILL,
    overlayFolders: folders,
    facts: {
      ...connection,
      state,
      disks: disks.map(({ id, source }) => ({ id, node: source.address })),
      active: domain.active,
      stateReason: domain.stateReason,
      connect: domain.connect,
      backing: Object.fromEntries(domain.disks.map(({ target, backing }) => [target, backing.length])),
      missingPrograms: missing,
      foreignCheckpoints: domain.checkpoints.map(({ name }) => name).filter((name) => !isOurBitmap(name)),
      snapshots,
      agent,
      scratch,
      overlays,
      overlaysInTarget: [],
      overlayObstacles: obstacles,
      detachedOverlays: detached,
    },
  };
}

/** With what is wrong with each image, as a backup would find it; bitmaps as libvirt knows them, and as the image has them. */
async function whileOff(session: DomainSession): Promise<DomainFacts['state']> {
  const asked = { include: [], exclude: [], startPaused: false };
  const { state } = await inspectOfflineDomain(session, asked, session.signal);
  const known = new Map(session.state.disks.map(({ address, bitmaps }) => [address, bitmaps]));
  const disks = state.disks.map((disk) => {
    const bitmaps = known.get(disk.address)?.map((bitmap) => asReadable(bitmap, disk));
    return { ...disk, bitmaps: bitmaps ?? disk.bitmaps };
  });
  return withImageBitmaps({ ...state, disks }, session.domain);
}

/** A bitmap that libvirt knows, as far as a backup could read it from the image. */
function asReadable(known: DirtyBitmap, { bitmaps }: SourceDisk): DirtyBitmap {
  const unreadable = bitmaps.find(({ name }) => name === known.name)?.unreadable;
  return unreadable === undefined ? known : { ...known, unreadable };
}

/** What starts qemu-nbd, and ends it with this process. */
const PULL_PROGRAMS = ['qemu-nbd', 'setpriv'] as const;

const STILL = { fleece: false, why: 'the VM is off, so nothing overwrites what is copied' } as const;

/** An agent that hangs holds up libvirt's next words to it for as long as it hangs, so it is asked one question. */
async function inspectAgent(virsh: Virsh, { uuid, agent, state }: DomainState): Promise<DomainAgentFacts> {
  const asked = agent === 'connected' && state === 'running';
  return {
    channel: agent,
    answer: asked ? await collectFailure(askAgent(virsh, uuid, { timeoutMs: AGENT_MS })) : null,
  };
}

/** The folders of scratch images, and that of the socket. */
async function inspectScratch(
  { owner }: DomainState,
  { disks }: DomainFacts['state'],
  fleeceDir: string | null,
): Promise<readonly ScratchFacts[]> {
  const needs = new Map<string, number>([[TEMPORARY, 0]]);
  for (const disk of disks) {
    const folder = scratchPlace(fleeceDir, disk);
    needs.set(folder, (needs.get(folder) ?? 0) + disk.virtualSize);
  }
  return Promise.all(
    [...needs].map(async ([folder, need]): Promise<ScratchFacts> => {
      const space = await collectFailure(freeSpace(folder, { timeoutMs: ANSWER_MS }));
      // Whatever else touches a file system that hangs would hang, too.
      if (isFailure(space)) return { folder, need, space, write: null, barred: null };
      const write = await collectFailure(requireWritable(folder));
      return { folder, need, space, write, barred: owner ? await barredAt(folder, owner) : null };
    }),
  );
}

async function requireWritable(folder: string): Promise<null> {
  try {
    await access(folder, constants.W_OK | constants.X_OK);
    return null;
  } catch (error) {
    throw fileError('make scratch images in', folder, error);
  }
}

interface User {
  readonly uid: number;
  readonly gid: number;
}

/**
 * By the modes alone: further groups, access lists and security modules are not looked at. libvirt makes the images, and
 * gives them to QEMU, which must get to them.
 */
async function barredAt(folder: string, user: User): Promise<ScratchFacts['barred']> {
  if (user.uid === 0) return null;
  const above = dirname(folder) === folder ? null : await barredAt(dirname(folder), user);
  if (above) return above;
  try {
    return mayPass(await stat(folder), user) ? null : { folder, uid: user.uid };
  } catch (error) {
    if (codeOf(error) === 'ENOENT' || codeOf(error) === 'EACCES') return null;
    throw fileError('look at', folder, error);
  }
}

/** Whether a folder's mode lets a user of one group pass through it. */
export function mayPass(
  folder: { readonly mode: number; readonly uid: number; readonly gid: number },
  user: User,
): boolean {
  const shift = folder.uid === user.uid ? 6 : folder.gid === user.gid ? 3 : 0;
  return ((folder.mode >> shift) & 1) === 1;
}

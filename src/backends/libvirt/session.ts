import { isAbsolute } from 'node:path';
import type { JobState, LeftOut, OwnNode, SourceDisk, VmState } from '../../core/disk.js';
import { meaningOfDomain } from '../../core/domain-states.js';
import { isFailure } from '../../core/failure.js';
import { COMMANDS_OF_ITS_OWN, VHOST_USER_DISK } from '../../core/guest-devices.js';
import { attemptOfScratch, domainJobId, isImageInTheMaking, isOurJob } from '../../core/names.js';
import { compatOfQcow2, QCOW2_START } from '../../core/qcow2-header.js';
import { layersOf } from '../../core/overlay-layers.js';
import { isPassingOverlay, isTrackingOverlay } from '../../core/overlay-names.js';
import { checkpointBitmap } from '../../core/reconcile.js';
import { virshCommand } from '../../core/virsh-hint.js';
import { QmpBackupError } from '../../errors.js';
import { allOf } from '../../flow/all-of.js';
import { collectFailure } from '../../flow/collect-failure.js';
import type { Unwind } from '../../flow/unwind.js';
import { firstBytes } from '../../host/first-bytes.js';
import { ACTIVE_COMMIT } from '../../libvirt/block-commit.js';
import type { DomainState } from '../../libvirt/domain-state.js';
import type { DomainDisk } from '../../libvirt/domain-xml.js';
import {
  type DomainGuess,
  findDomain,
  guessDomain,
  inspectDomain,
  type KeptDefinition,
  keptDefinition,
} from '../../libvirt/domain.js';
import { hostOf, hostOfFiles, type LibvirtHost, requireThisHost } from '../../libvirt/host.js';
import { imagesOf } from '../../libvirt/image-layers.js';
import { operationInWords } from '../../libvirt/job-info.js';
import { createVirsh, openVirsh, type Virsh } from '../../libvirt/virsh.js';
import { lockVm } from '../../repository/lock.js';
import { seeDomain, withNetworkSizes } from './inspect.js';
import { withImageBitmaps } from './offline-bitmaps.js';
import { withOverlayFacts } from './overlay-facts.js';
import { withInnocentDisks } from './unmeasured.js';

/** A libvirt domain that this run has to itself: its lock is held, and it has been looked at once. */
export interface DomainSession {
  readonly virsh: Virsh;
  readonly uuid: string;
  readonly connect: string | null;
  readonly domain: DomainState;
  readonly state: VmState;
  /** This run has started it, paused. */
  readonly startedPaused?: true;
  /** Aborts when the domain's lock is lost. */
  readonly signal: AbortSignal;
}

/** One for a backup, whose point holds the definition, too. */
export interface BackupSession extends DomainSession {
  readonly kept: KeptDefinition;
}

export interface DomainAccess {
  /** Name or UUID. */
  readonly domain: string;
  /** URI for libvirt; null is virsh's own default. */
  readonly connect: string | null;
  readonly breakLock: boolean;
  readonly purpose: string;
  /** How long libvirt may take for one answer, in milliseconds; default 45 s, which is the most. */
  readonly timeoutMs?: number | undefined;
}

/**
 * A look that changes nothing and needs no lock: libvirt answers many at a time, also while a run has the domain. Of one
 * whose files are on another host it tells what libvirt says, and `elsewhere`, why it looked at none of them.
 *
 * @throws DomainNotFound, LibvirtUnreachable
 */
export async function inspectDomainSession({
  domain,
  connect,
}: Pick<DomainAccess, 'domain' | 'connect'>): Promise<{ readonly state: VmState; readonly elsewhere: string | null }> {
  const virsh = createVirsh(connect ?? undefined);
  const [{ uuid }, host] = await allOf([findDomain(virsh, domain), hostOf(virsh)]);
  const told = await inspectDomain(virsh, uuid, { sizes: false });
  const { elsewhere } = await hostOfFiles(virsh, host, imagePaths(told));
  if (elsewhere !== null) return { state: vmStateOf(told), elsewhere };
  const seen = await withNetworkSizes(told);
  const state = await stateOf(virsh, seen);
  return { state: seen.active ? state : await withImageBitmaps(state, seen), elsewhere };
}

/** @throws DomainNotFound, LibvirtUnreachable; QmpBackupError `locked`, `unsafe` where its files are on another host */
export async function openDomain(access: DomainAccess, unwind: Unwind): Promise<DomainSession> {
  const locked = await lockDomain(access, unwind);
  return sessionOf(access, locked, await seeDomain(locked.virsh, locked.uuid, { guess: locked.guess }));
}

/** What was done meanwhile may have changed what the domain has, and what is kept of its overlays. */
export async function lookAgain(session: DomainSession): Promise<DomainSession> {
  return { ...session, domain: await inspectDomain(session.virsh, session.uuid) };
}

/** As `openDomain`. */
export async function openDomainForBackup(access: DomainAccess, unwind: Unwind): Promise<BackupSession> {
  const locked = await lockDomain(access, unwind);
  const { virsh, uuid, guess } = locked;
  const [domain, kept] = await allOf([seeDomain(virsh, uuid, { guess }), keptDefinition(virsh, uuid)]);
  return { ...(await sessionOf(access, locked, domain)), kept };
}

function imagePaths({ disks }: DomainState): readonly string[] {
  return disks.flatMap(({ source }) => source?.path ?? []);
}

interface LockedDomain extends Pick<DomainSession, 'virsh' | 'uuid' | 'signal'> {
  readonly host: LibvirtHost;
  readonly guess: DomainGuess | null;
}

const THERE = 'the images and the lock of the domain are there';

async function lockDomain(
  { domain: name, connect, breakLock, purpose, timeoutMs }: DomainAccess,
  unwind: Unwind,
): Promise<LockedDomain> {
  const { virsh, close } = openVirsh(connect ?? undefined, timeoutMs);
  unwind.defer(close);
  const [{ uuid }, guess, host] = await allOf([findDomain(virsh, name), guessDomain(virsh, name), hostOf(virsh)]);
  requireThisHost(host, THERE);
  // The same lock as of a run that reaches this VM by its monitor.
  const lock = await lockVm(`uuid ${uuid}`, { breakLock, purpose });
  unwind.defer(() => lock.release());
  return { virsh, uuid, guess, host, signal: lock.signal };
}

async function sessionOf(
  { connect }: DomainAccess,
  { virsh, uuid, host, signal }: LockedDomain,
  domain: DomainState,
): Promise<DomainSession> {
  requireThisHost(await hostOfFiles(virsh, host, imagePaths(domain)), THERE);
  return { virsh, uuid, signal, connect, domain, state: await stateOf(virsh, domain) };
}

/** As `vmStateOf`, with what libvirt does not tell: whether its images can hold bitmaps, and whose bitmap it cannot measure. */
export async function stateOf(virsh: Virsh, domain: DomainState): Promise<VmState> {
  const state = vmStateOf(await withInnocentDisks(virsh, domain));
  const disks = await Promise.all(
    state.disks.map(async (disk) =>
      withOverlayFacts(
        disk.format === 'qcow2' ? { ...disk, compat: await compatOf(disk.file) } : disk,
        domain.overlayRecords,
      ),
    ),
  );
  return { ...state, disks };
}

/** Null where the image is not on this host, or this user may not read it. */
async function compatOf(image: string): Promise<string | null> {
  if (!isAbsolute(image)) return null;
  const start = await collectFailure(firstBytes(image, QCOW2_START));
  return isFailure(start) ? null : compatOfQcow2(start);
}

/** The domain as the plan and the repairs know any VM. Its checkpoints are the bitmaps of its disks. */
export function vmStateOf(domain: DomainState): VmState {
  const looked = domain.disks.map((disk) => ({ disk, out: whyLeftOut(disk, domain) }));
  return {
    machine: {
      name: domain.name,
      uuid: domain.uuid,
      qemuVersion: 'unknown',
      type: domain.machine,
      memory: domain.memory,
      cpus: domain.cpus,
    },
    status: domain.state,
    running: domain.state === 'running',
    migration: null,
    inactive: false,
    disks: looked.flatMap(({ disk, out }) => (out === null ? [sourceOf(disk, domain)] : [])),
    leftOut: [
      ...looked.flatMap(({ disk, out }): LeftOut[] => (out === null ? [] : [{ name: disk.target, ...out }])),
      ...domain.unlisted,
    ],
    iothread: null,
    passedThrough: domain.passedThrough,
    jobs: jobsOf(domain),
    ownNodes: leftOverlaysOf(domain),
    ownExports: [],
  };
}

type Out = Omit<LeftOut, 'name'>;

function whyLeftOut(disk: DomainDisk, domain: DomainState): Out | null {
  const { device, source, target } = disk;
  if (device === 'cdrom' || device === 'floppy') return { kind: 'no-disk', reason: `a removable medium (${device})` };
  if (device === 'lun') return COMMANDS_OF_ITS_OWN;
  if (source === null) return { kind: 'no-disk', reason: 'no medium' };
  if (disk.readOnly) return { kind: 'no-disk', reason: 'read-only' };
  if (source.type === 'vhostuser') return VHOST_USER_DISK;
  if (!domain.sizes.get(target)) {
    const reason = `its size is not known: ${domain.unsized.get(target) ?? 'its image may be gone'}`;
    return { kind: 'rule', reason, instead: 'See whether its storage is mounted.' };
  }
  return ruledOut(disk, domain);
}

/** What is left out unless `--include` names it, as far as it can be taken at all (docs/decisions/0019). */
function ruledOut(disk: DomainDisk, domain: DomainState): Out | null {
  const { source, target } = disk;
  const { active } = domain;
  const twin = domain.disks.find((each) => each.target !== target && sameImage(each, disk));
  const path = source?.path ?? '';
  const whileOff = 'While the domain is off, --include takes it.';
  if (disk.transient) {
    const reason = 'transient: its changes are dropped when the domain ends';
    // libvirt 9.0: block jobs are not supported on transient disk.
    if (active)
      return { kind: 'rule', reason, instead: `libvirt copies no transient disk of a running domain. ${whileOff}` };
    return offered(reason, disk, domain, { alone: false, cost: 'transient: it is as each start finds it' });
  }
  if (twin) {
    // QEMU cannot lock it for a job, and libvirt 9.0 dies of that when the job of another disk had begun.
    const reason = `its image is also that of ${twin.target}, and QEMU makes no backup of one that is open twice`;
    if (active) return { kind: 'rule', reason, instead: whileOff };
    return offered(reason, disk, domain, { alone: false, cost: `${path} is also the image of ${twin.target}` });
  }
  // What they write is in no bitmap and no scratch image of this one; and libvirt 9.0 dies where such a disk is not the first.
  if (disk.shareable) {
    const reason = 'shareable: other VMs may write to it, of which a backup of this one would know nothing';
    return offered(reason, disk, domain, { alone: active, cost: 'shareable: refused while another VM has it open' });
  }
  return null;
}

function sameImage(one: DomainDisk, other: DomainDisk): boolean {
  return one.source?.path != null && one.source.path === other.source?.path;
}

function offered(
  reason: string,
  disk: DomainDisk,
  domain: DomainState,
  { alone, cost }: { readonly alone: boolean; readonly cost: string },
): Out {
  const source = { ...sourceOf(disk, domain), cannotTrack: `${cost}, so every backup reads the whole disk` };
  return { kind: 'rule', reason, offer: { source, alone } };
}

export function sourceOf(disk: DomainDisk, domain: DomainState): SourceDisk {
  const { target, alias, backing } = disk;
  const size = domain.sizes.get(target) ?? { capacity: 0, allocation: 0 };
  const { overlays, image } = layersOf(imagesOf(disk));
  const { format, description: file } = image;
  const job = domain.blockJobs.get(target);
  return {
    device: target,
    qdev: alias,
    address: target,
    root: target,
    underJob: false,
    ...(job !== undefined && { heldBy: { type: job, virsh: blockJobCommand(domain, target) } }),
    format,
    file,
    ...(overlays.length > 0 && { overlays }),
    backing: backing.flatMap((each) => each.source?.path ?? each.source?.description ?? []),
    virtualSize: size.capacity,
    // libvirt tells what the top image takes, and a FULL has what is below it, too.
    allocated: backing.length > 0 ? size.capacity : Math.min(size.allocation, size.capacity),
    compat: null,
    encrypted: disk.encrypted,
    cannotTrack:
      format === 'qcow2'
        ? null
        : `libvirt has no checkpoints for ${format} disks, so every backup reads the whole disk`,
    bitmaps: [
      ...overlays.flatMap(({ name }) => (isTrackingOverlay(name) ? checkpointBitmap(name, size.capacity) : [])),
      ...domain.checkpoints.flatMap(({ disks }) =>
        disks.flatMap(({ target: of, bitmap, changedBytes, unmeasured }) =>
          of === target
            ? {
                ...checkpointBitmap(bitmap, size.capacity, changedBytes ?? null),
                inconsistent: domain.active && changedBytes === null && unmeasured === undefined,
                unsure: true,
                ...(unmeasured !== undefined && { unreadable: unmeasured }),
              }
            : [],
        ),
      ),
    ],
    image: {
      filename: file,
      format,
      'virtual-size': size.capacity,
      ...(backing[0]?.source?.path && { 'full-backing-filename': backing[0].source.path }),
    },
  };
}

/**
 * What a run that died has left above the images of the disks, whichever target it served, or a `consolidate-source` while it merged
 * the overlay that the guest writes to: its job goes on until somebody ends it.
 */
function leftOverlaysOf({ disks, blockJobs, overlayRecords }: DomainState): OwnNode[] {
  const announced = new Set(overlayRecords.flatMap(({ overlay, changing }) => (changing ? [overlay] : [])));
  return disks.flatMap((disk) => {
    const { overlays, image } = layersOf(imagesOf(disk));
    const merging = blockJobs.get(disk.target) === ACTIVE_COMMIT;
    return overlays
      .filter(({ name, path, depth }) => isPassingOverlay(name) || (merging && depth === 0 && announced.has(path)))
      .map(({ name, path }): OwnNode => {
        return { node: name, role: 'overlay', below: image.path, qdev: disk.target, file: path };
      });
  });
}

/** The command that tells of the job of a disk, and with more words ends it. */
export function blockJobCommand({ connect, name }: Pick<DomainState, 'connect' | 'name'>, target: string): string {
  return virshCommand(connect, 'blockjob', name, target);
}

/**
 * The one job of the domain. Of a backup of a run of ours: a pull is known by the folder of its scratch images, a push by
 * what it writes.
 */
function jobsOf({ backup, job }: DomainState): JobState[] {
  const [attempt] = backup?.disks.flatMap(({ file }) => attemptOf(backup.mode, file ?? '') ?? []) ?? [];
  if (attempt === undefined && job?.state !== 'running') return [];
  return [
    {
      id: attempt === undefined ? 'job of the domain' : domainJobId(attempt),
      type: backup ? 'backup' : operationInWords(job?.operation ?? null),
      status: job?.state ?? 'running',
      // A pull has no progress that libvirt could know.
      current: job?.copied?.bytes ?? 0,
      total: job?.copied?.total ?? 0,
      error: job?.error ?? null,
    },
  ];
}

function attemptOf(mode: 'pull' | 'push', file: string): string | undefined {
  if (mode === 'pull') return attemptOfScratch(file);
  return isImageInTheMaking(file) ? UNTOLD_ATTEMPT : undefined;
}

/** The name of an image does not tell which attempt made it. */
const UNTOLD_ATTEMPT = '0'.repeat(12);

type JobView = Pick<DomainSession, 'domain' | 'state'>;

/** libvirt runs one job for a domain at a time, and waits 30 s before it says so. */
export function refuseForeignJob(view: JobView, { mayEndBackups }: { readonly mayEndBackups: boolean }): void {
  const { job, backup, name, connect } = view.domain;
  if (!isForeign(view) || (mayEndBackups && isForeignBackup(view))) return;
  const kind = backup ? `a ${backup.mode} backup` : operationInWords(job?.operation ?? null);
  const ended = backup ? '--kill-job ends it' : `it is ended by: ${virshCommand(connect, 'domjobabort', name)}`;
  throw new QmpBackupError('locked', `the domain ${name} is busy with ${kind} of somebody else`, {
    hint: `Wait until it has ended. See: ${virshCommand(connect, 'domjobinfo', name)}; ${ended}`,
  });
}

/** @throws QmpBackupError `unsafe` where the domain is on its way to somewhere else, or already there (domain/domain-states) */
export function refuseDomainState(domain: DomainState): void {
  const { name, state, stateReason } = domain;
  const meaning = meaningOfDomain(state, stateReason, domain);
  if (meaning.kind !== 'refused') return;
  throw new QmpBackupError('unsafe', `the domain ${name} ${meaning.why}`, {
    hint: `Nothing was changed. ${meaning.todo}`,
  });
}

export function isForeignBackup(view: JobView): boolean {
  return isForeign(view) && view.domain.backup !== null;
}

function isForeign({ domain: { job }, state }: JobView): boolean {
  return job?.state === 'running' && !state.jobs.some(isOurJob);
}

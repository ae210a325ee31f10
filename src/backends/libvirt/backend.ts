import type { VmState } from '../../core/disk.js';
import { bitmapsOfDead } from '../../core/journal-parts.js';
import { checkpointName } from '../../core/names.js';
import { trackingOverlay } from '../../core/overlay-names.js';
import { virshCommand } from '../../core/virsh-hint.js';
import { warning } from '../../core/warning.js';
import { QmpBackupError } from '../../errors.js';
import type { Unwind } from '../../flow/unwind.js';
import { inspectDomain } from '../../libvirt/domain.js';
import { readTarget } from '../../repository/target.js';
import type { Backend, ReadyVm } from '../backend.js';
import { imagesBackend } from '../images/backend.js';
import type { BackupOptions } from '../backup-options.js';
import type { BackupRun } from '../backup-run.js';
import { chooseMethod } from './choose-method.js';
import { domainCopy } from './domain-attempt.js';
import type { DomainMethod } from './domain-method.js';
import { endForeignJob } from './foreign-job.js';
import { checkDomainFreeze } from './freeze-domain.js';
import { seeDomain } from './inspect.js';
import { plannedByOverlay } from './methods/overlay.js';
import { missingOverlay } from './missing-overlay.js';
import { PULL } from './methods/pull.js';
import { offlineDomain } from './offline-domain.js';
import { withOrphanBitmaps } from './orphan-bitmaps.js';
import { dropCheckpoints, dropSuperfluous, observeDomainRepairs, repairDomain } from './repair.js';
import {
  type BackupSession,
  type DomainAccess,
  type DomainSession,
  openDomainForBackup,
  refuseDomainState,
  refuseForeignJob,
  stateOf,
} from './session.js';
import { startForBackup } from './start-paused.js';

interface Way extends Pick<BackupOptions, 'include' | 'exclude'> {
  readonly method: DomainMethod;
  readonly startPaused: boolean;
  /** Ends looks at images. */
  readonly signal: AbortSignal;
}

/** A libvirt domain, running or off. */
export async function openDomainBackend(
  access: DomainAccess,
  options: BackupOptions,
  signal: AbortSignal,
  unwind: Unwind,
): Promise<Backend> {
  const { killJob, startPaused, include, exclude, track } = options;
  const session = await openDomainForBackup(access, unwind);
  // One that is off is only read.
  const runs = session.domain.active || startPaused;
  const method = runs ? await chooseMethod(session, options) : PULL;
  if (startPaused && method.qemuWrites) refuseStart(method);
  const way: Way = { method, startPaused, include, exclude, signal };
  if (session.domain.active) refuseForeignJob(session, { mayEndBackups: killJob });
  refuseDomainState(session.domain);
  if (!session.domain.active && track === 'overlay') await refuseTracking(session);
  if (!session.domain.active) return offlineDomainBackend(session, way);
  return runningDomainBackend(session, way);
}

/** libvirt takes snapshots of all disks at one instant while a domain runs. */
async function refuseTracking({ domain }: BackupSession): Promise<never> {
  for (const disk of domain.disks) {
    const missing = await missingOverlay(disk);
    if (missing) throw new QmpBackupError('unsafe', missing.why, { hint: missing.todo });
  }
  const start = virshCommand(domain.connect, 'start', domain.name);
  throw new QmpBackupError('unsafe', `--track overlay: the domain ${domain.name} is off (${domain.state})`, {
    hint: `Nothing was changed. Start it (${start}), or leave --track out: its images are then read as they lie.`,
  });
}

/** Whom its files would have to belong to is known only of a domain that runs. */
function refuseStart({ fleecing }: DomainMethod): never {
  throw new QmpBackupError('unsafe', `--start-paused is not possible here: ${fleecing.why}`, {
    hint: 'Nothing was changed. Leave it out: the images are then read as they lie.',
  });
}

function runningDomainBackend(session: BackupSession, way: Way): Backend {
  const { uuid, domain, state } = session;
  // Files that root makes for a QEMU that runs as somebody else must belong to that user, where QEMU writes them.
  const isRoot = process.getuid?.() === 0;
  return {
    state,
    signal: session.signal,
    subject: `the domain ${domain.name} (${uuid})`,
    monitor: null,
    imageOwner: way.method.qemuWrites && isRoot ? (domain.owner ?? undefined) : undefined,
    observeRepairs: (target) => observeDomainRepairs(session, target, state),
    repair: async (target, vm) => {
      const ended = await endForeignJob(session);
      const { vm: repaired, report } = await repairDomain(session, target, vm);
      return { vm: repaired, report: { ...report, warnings: [...ended, ...report.warnings] } };
    },
    foresee: (vm) => readyDomain(session, way.method, vm),
    makeReady: async (run, vm, unwind) => {
      if (vm.status !== 'shut off') return readyDomain(session, way.method, vm);
      // The repair has ended it: a run that died had started it.
      const now = await seeDomain(session.virsh, session.uuid);
      const off = await offlineDomainBackend(
        { ...session, domain: now, state: await stateOf(session.virsh, now) },
        way,
      );
      return off.makeReady(run, off.state, unwind);
    },
  };
}

/** One that has a QEMU. `end`: when its point is made and all is tidied up. */
function readyDomain(
  session: BackupSession,
  method: DomainMethod,
  vm: VmState,
  end: () => Promise<void> = () => Promise.resolve(),
): ReadyVm {
  return {
    vm: plannedByOverlay(vm, method.tracks),
    bitmapName: method.tracks === 'overlay' ? trackingOverlay : checkpoint,
    prepare: async (run, planned, facts) => {
      method.refuse(run.options);
      const risk = method.riskOf(facts);
      if (risk !== null) run.warn(warning('target-may-hang', risk));
      await method.refuseDomain?.({ ...run, session }, planned);
      return domainCopy(session, planned, method);
    },
    checkFreeze: (run) => checkDomainFreeze({ ...run, session }, vm),
    withOrphanBitmaps: (disks) => withOrphanBitmaps(session, disks),
    retire: async ({ options, signal }, _plan, actions) => {
      const merging = { rate: options.speedLimit, hurry: signal };
      const warnings = await dropSuperfluous(session, actions, merging);
      await end();
      return warnings;
    },
  };
}

function checkpoint(targetId: string, _disk: string, attempt: string): string {
  return checkpointName(targetId, attempt);
}

/** One that is off is read from its images; with `--start-paused` it runs for as long as its backup takes. */
async function offlineDomainBackend(session: BackupSession, way: Way): Promise<Backend> {
  const backend = imagesBackend(await offlineDomain(session, way, way.signal));
  if (!way.startPaused) return backend;
  return {
    state: backend.state,
    signal: backend.signal,
    subject: backend.subject,
    monitor: null,
    imageOwner: undefined,
    observeRepairs: (target) => backend.observeRepairs(target),
    repair: (target, vm) => backend.repair(target, vm),
    // Nothing is read before it is started, and then nothing is frozen.
    foresee: (vm) => readyDomain({ ...session, startedPaused: true }, way.method, vm),
    makeReady: async (run, _vm, unwind) => {
      const { session: started, end } = await startForBackup(run, session, unwind);
      return readyDomain(started, way.method, await repairStarted(run, started), end);
    },
  };
}

/** What could not be repaired while it was off: bitmaps of a run that died, and checkpoints that libvirt has forgotten. */
async function repairStarted(run: BackupRun, session: DomainSession): Promise<VmState> {
  const target = await readTarget(run.target, run.options.monthly);
  const names = bitmapsOfDead(target).flatMap(({ bitmap }) => bitmap ?? []);
  (await dropCheckpoints(session, names)).forEach(run.warn);
  const state = await stateOf(session.virsh, await inspectDomain(session.virsh, session.uuid));
  const { vm, report } = await repairDomain(session, { ...target, journal: undefined }, state);
  report.warnings.forEach(run.warn);
  return vm;
}

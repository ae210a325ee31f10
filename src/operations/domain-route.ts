import { checkpointName } from '../domain/names.js';
import { QmpBackupError } from '../errors.js';
import { attemptDomainPoint } from './attempt-domain-point.js';
import type { BackupRun } from './backup-run.js';
import { dropCheckpoints, repairDomain } from './domain-repair.js';
import { type DomainAccess, openDomain, refuseForeignJob, refuseInactive } from './domain-session.js';
import { observeRepairs } from './repair.js';
import type { Route } from './route.js';
import type { Unwind } from './unwind.js';

/** A libvirt domain: a checkpoint and a pull backup in one call, and our own hands write the files. */
export async function openDomainRoute(access: DomainAccess, unwind: Unwind): Promise<Route> {
  const session = await openDomain(access, unwind);
  const { uuid, domain, state } = session;
  refuseInactive(session);
  refuseForeignJob(session);
  return {
    state,
    signal: session.signal,
    subject: `the domain ${domain.name} (${uuid})`,
    // The files are written by this process.
    imageOwner: undefined,
    bitmapName: (targetId, _disk, attempt) => checkpointName(targetId, attempt),
    observeRepairs: (target) => observeRepairs(target, state),
    repair: (target, vm) => repairDomain(session, target, vm),
    prepare: (run, planned) => {
      refuseWithout(run.options);
      return Promise.resolve({
        fleecing: { fleece: true, why: 'libvirt keeps what the guest overwrites in scratch images while it is pulled' },
        take: (locked, staging, vm) => attemptDomainPoint({ ...locked, session }, planned, staging, vm),
      });
    },
    retire: (_plan, actions) => dropCheckpoints(session, actions),
  };
}

/** Without scratch images libvirt cannot keep an instant. */
function refuseWithout({ fleece }: BackupRun['options']): void {
  if (fleece !== 'never') return;
  throw new QmpBackupError('usage', '--fleece never is not possible for a libvirt domain', {
    hint: 'A pull backup keeps what the guest overwrites in scratch images; name their folder with --fleece-dir.',
  });
}

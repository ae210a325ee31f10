import { checkpointName } from '../domain/names.js';
import { attemptDomainPoint } from './attempt-domain-point.js';
import type { BackupOptions } from './backup-run.js';
import type { CopyMethod } from './domain-copy.js';
import { dropCheckpoints, observeDomainRepairs, repairDomain } from './domain-repair.js';
import { type DomainAccess, openDomain, refuseForeignJob, refuseInactive } from './domain-session.js';
import { endForeignJob } from './foreign-job.js';
import { PULL } from './pull-copy.js';
import { PUSH } from './push-copy.js';
import type { Route } from './route.js';
import type { Unwind } from './unwind.js';

const METHODS: Readonly<Record<BackupOptions['method'], CopyMethod>> = { pull: PULL, push: PUSH };

/** A libvirt domain: a checkpoint and a backup in one call, and the files written as `--method` says. */
export async function openDomainRoute(
  access: DomainAccess,
  { method: name, killJob }: Pick<BackupOptions, 'method' | 'killJob'>,
  unwind: Unwind,
): Promise<Route> {
  const method = METHODS[name];
  const session = await openDomain(access, unwind);
  const { uuid, domain, state } = session;
  refuseInactive(session);
  refuseForeignJob(session, { mayEndBackups: killJob });
  // Files that root makes for a QEMU that runs as somebody else must belong to that user, where QEMU writes them.
  const isRoot = process.getuid?.() === 0;
  return {
    state,
    signal: session.signal,
    subject: `the domain ${domain.name} (${uuid})`,
    imageOwner: method === PUSH && isRoot ? (domain.owner ?? undefined) : undefined,
    bitmapName: (targetId, _disk, attempt) => checkpointName(targetId, attempt),
    observeRepairs: (target) => observeDomainRepairs(session, target, state),
    repair: async (target, vm) => {
      const ended = await endForeignJob(session);
      const { vm: repaired, report } = await repairDomain(session, target, vm);
      return { vm: repaired, report: { ...report, warnings: [...ended, ...report.warnings] } };
    },
    prepare: (run, planned, facts) => {
      method.refuse(run.options);
      const risk = method.riskOf(facts);
      if (risk !== null) run.warn(risk);
      return Promise.resolve({
        fleecing: method.fleecing,
        take: (locked, staging, vm) => attemptDomainPoint({ ...locked, session }, planned, method, staging, vm),
      });
    },
    retire: (_plan, actions) => dropCheckpoints(session, actions),
  };
}

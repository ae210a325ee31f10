import type { SourceDisk } from '../../domain/disk.js';
import { QmpBackupError } from '../../errors.js';
import { hasManagedSave } from '../../libvirt/domain-life.js';
import type { BackupOptions } from '../point/backup-run.js';
import type { BackupSession, DomainSession } from '../by-libvirt/domain-session.js';
import { eachDisk } from '../flow/all-of.js';
import { restingSource } from './resting-disks.js';
import type { RestingVm } from './resting-route.js';

/** A domain that is off: its images tell what libvirt cannot, whether the bitmaps of its checkpoints are whole. */
export async function restingDomain(
  session: BackupSession,
  choice: Choice,
  interrupt: AbortSignal,
): Promise<RestingVm> {
  const { virsh, uuid, domain, state } = session;
  const signal = AbortSignal.any([session.signal, interrupt]);
  refuseMissing(session, choice);
  const saved = await hasManagedSave(virsh, uuid);
  const disks = await eachDisk(state.disks, async (disk) =>
    isAskedFor(disk.node, choice) ? atRest(disk, signal) : disk,
  );
  return {
    state: { ...state, disks },
    signal: session.signal,
    session,
    subject: `the domain ${domain.name} (${uuid})`,
    consistency: saved ? 'crash' : 'offline',
    unclean: saved ? 'its memory is saved apart (virsh managedsave)' : null,
    instead: 'start the domain paused for it: --start-paused',
  };
}

/** `--include` and `--exclude`: what is left out need not be readable, and may be in use. */
type Choice = Pick<BackupOptions, 'include' | 'exclude'>;

function isAskedFor(target: string, { include, exclude }: Choice): boolean {
  return !exclude.includes(target) && (include.length === 0 || include.includes(target));
}

/** What is no file of this host stays as libvirt describes it. */
async function atRest(disk: SourceDisk, signal: AbortSignal): Promise<SourceDisk> {
  const { node: name, file: path, format, cannotTrack } = disk;
  return path.startsWith('/') ? restingSource({ name, named: false, path, format, cannotTrack }, signal) : disk;
}

/** libvirt leaves out what it cannot read; of storage that is not mounted a backup without it would say nothing. */
function refuseMissing({ domain }: DomainSession, choice: Choice): void {
  const gone = domain.disks.find(
    ({ target, device, source, readOnly, transient }) =>
      device === 'disk' && source && !readOnly && !transient && !domain.sizes.get(target) && isAskedFor(target, choice),
  );
  if (!gone?.source) return;
  const { path, description } = gone.source;
  const what = path ?? description;
  const todo =
    path === null ? 'Only the running domain can read it: --start-paused.' : 'See whether its storage is mounted.';
  throw new QmpBackupError('unsafe', `the image of ${gone.target} cannot be read: ${what}`, {
    hint: `Nothing was changed. ${todo} Or leave it out: --exclude ${gone.target}`,
  });
}

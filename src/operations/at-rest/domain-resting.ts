import type { SourceDisk } from '../../domain/disk.js';
import { QmpBackupError } from '../../errors.js';
import { hasManagedSave } from '../../libvirt/domain-life.js';
import type { BackupSession, DomainSession } from '../by-libvirt/domain-session.js';
import { eachDisk } from '../flow/all-of.js';
import { restingSource } from './resting-disks.js';
import type { RestingVm } from './resting-route.js';

/** A domain that is off: its images tell what libvirt cannot, whether the bitmaps of its checkpoints are whole. */
export async function restingDomain(session: BackupSession, interrupt: AbortSignal): Promise<RestingVm> {
  const { virsh, uuid, domain, state } = session;
  const signal = AbortSignal.any([session.signal, interrupt]);
  refuseMissing(session);
  const saved = await hasManagedSave(virsh, uuid);
  const disks = await eachDisk(state.disks, (disk) => atRest(disk, signal));
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

/** What is no file of this host stays as libvirt describes it. */
async function atRest(disk: SourceDisk, signal: AbortSignal): Promise<SourceDisk> {
  const { node: name, file: path, format, cannotTrack } = disk;
  return path.startsWith('/') ? restingSource({ name, named: false, path, format, cannotTrack }, signal) : disk;
}

/** libvirt leaves out what it cannot read; of storage that is not mounted a backup without it would say nothing. */
function refuseMissing({ domain, state }: DomainSession): void {
  const gone = domain.disks.find(
    ({ target, device, source, readOnly, transient }) =>
      device === 'disk' && !readOnly && !transient && source?.path && state.leftOut.some(({ name }) => name === target),
  );
  if (!gone) return;
  throw new QmpBackupError('unsafe', `the image of ${gone.target} cannot be read: ${gone.source?.path}`, {
    hint: 'Nothing was changed. See whether its storage is mounted.',
  });
}

import { bitmapsOfDead } from '../../core/journal-parts.js';
import { virshCommand } from '../../core/virsh-hint.js';
import { type Warning, warning } from '../../core/warning.js';
import { messageOf, QmpBackupError } from '../../errors.js';
import type { Unwind } from '../../flow/unwind.js';
import { inspectDomain, stateNow } from '../../libvirt/domain.js';
import { isOutcomeUnknown } from '../../libvirt/errors.js';
import { destroyGracefully, hasHardlyRun, hasManagedSave, startPaused } from '../../libvirt/lifecycle.js';
import { readJournal, removeJournal, writeJournal } from '../../repository/journal-file.js';
import type { BackupRun } from '../backup-run.js';
import { newJournal } from '../methods/attempt-journal.js';
import { type BackupSession, type DomainSession, stateOf } from './session.js';

export interface Started {
  readonly session: BackupSession;
  /** When all is done in it. */
  readonly end: () => Promise<void>;
}

/**
 * Starts a domain that is off, before its first instruction, so that libvirt can make a checkpoint. It is ended again
 * when the run ends, however that comes, and by the next run where this one is killed: the journal says so before.
 *
 * @throws QmpBackupError `unsafe` where starting it would use up its saved memory; VirshError
 */
export async function startForBackup(run: BackupRun, session: BackupSession, unwind: Unwind): Promise<Started> {
  const { virsh, uuid, domain } = session;
  if (await hasManagedSave(virsh, uuid)) {
    throw new QmpBackupError('unsafe', `--start-paused: the memory of ${domain.name} is saved (virsh managedsave)`, {
      hint: 'Nothing was changed. Starting it would use the saved memory up. Leave --start-paused out.',
    });
  }
  await writeStarting(run, uuid);
  let unknown = false;
  let ended = false;
  const end = async (): Promise<void> => {
    const left = await endStarted(session);
    if (left !== null) run.warn(left);
    ended = true;
  };
  unwind.defer(async () => {
    if (ended) return;
    await end();
    // What may come up yet, the next run ends.
    if (!unknown) await forgetStarting(run);
  });
  try {
    await startPaused(virsh, uuid);
  } catch (error) {
    unknown = isOutcomeUnknown(error);
    throw error;
  }
  const started = await inspectDomain(virsh, uuid);
  return { session: { ...session, domain: started, state: await stateOf(virsh, started), startedPaused: true }, end };
}

/** The bitmaps that an earlier run left in the images stay in the journal until they are removed. */
async function writeStarting(run: BackupRun, uuid: string): Promise<void> {
  await writeJournal(run.target, {
    ...newJournal(run, { kind: 'domain', uuid }, ' --start-paused'),
    disks: bitmapsOfDead({ journal: await readJournal(run.target), catalog: undefined }),
    starts: uuid,
  });
}

/** After a failure before the attempt began: whatever came later has a journal of its own. */
async function forgetStarting({ target, attempt }: BackupRun): Promise<void> {
  const journal = await readJournal(target);
  // One with scratch folders is that of the attempt, whose undo has failed: it stays.
  if (journal?.attempt !== attempt || journal.scratch.length > 0) return;
  if (journal.disks.length === 0) await removeJournal(target);
  else await writeJournal(target, { ...journal, starts: undefined });
}

/**
 * Ends a domain that a run of ours has started, unless somebody let it go on since; QEMU stores its bitmaps. Returns a
 * warning for a domain that is left as it is.
 */
export async function endStarted({
  virsh,
  uuid,
  domain,
}: Pick<DomainSession, 'virsh' | 'uuid' | 'domain'>): Promise<Warning | null> {
  const state = await stateNow(virsh, uuid);
  if (state === 'shut off') return null;
  if (state !== 'paused' || !(await hasHardlyRun(virsh, uuid))) {
    return warning(
      'domain-left-running',
      `the domain ${domain.name}, which was started paused for a backup, was let go on by somebody: it is left as it is`,
    );
  }
  try {
    await destroyGracefully(virsh, uuid);
    return null;
  } catch (error) {
    throw new QmpBackupError(
      'failed',
      `the domain ${domain.name} was started paused and does not end: ${messageOf(error)}`,
      {
        cause: error,
        hint: `End it: ${virshCommand(domain.connect, 'destroy', '--graceful', domain.name)}`,
      },
    );
  }
}

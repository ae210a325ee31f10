/**
 * The commands that change a domain: begin and end a backup job, make and drop checkpoints, freeze and thaw. Each is
 * one call of virsh; none undoes anything by itself.
 */
import { type PullBackup, pullBackupXml, type PushBackup, pushBackupXml } from './backup-xml.js';
import { type Checkpoint, checkpointXml, type NewCheckpoint } from './checkpoint-xml.js';
import { dumpCheckpoint, runningBackup } from './domain.js';
import { LibvirtAnswerError, VirshError, VirshTimeout } from './errors.js';
import type { Virsh } from './virsh.js';

export type Backup =
  | ({ readonly mode: 'pull' } & PullBackup)
  /** `reuse`: the target files are there already, with size and backing link. */
  | ({ readonly mode: 'push'; readonly reuse: boolean } & PushBackup);

/**
 * Begins a backup and makes the checkpoint, at one instant over all disks. When it rejects with a VirshError nothing
 * was begun, and neither a file nor (as far as was seen) a checkpoint is left; else see `isOutcomeUnknown`.
 */
export async function beginBackup(
  virsh: Virsh,
  uuid: string,
  backup: Backup,
  checkpoint?: NewCheckpoint,
): Promise<void> {
  await virsh('backup-begin', backup.mode === 'push' && backup.reuse ? ['--reuse-external'] : [], {
    domain: uuid,
    documents: {
      '--backupxml': backup.mode === 'pull' ? pullBackupXml(backup) : pushBackupXml(backup),
      ...(checkpoint && { '--checkpointxml': checkpointXml(checkpoint) }),
    },
  });
}

/**
 * Ends the job of the domain, whatever it is: look first whose it is. Resolves when it is gone, with its NBD server and
 * scratch files; also when there was none. Ending a pull is its normal end; the checkpoint stays.
 */
export async function endBackup(
  virsh: Virsh,
  uuid: string,
  options: { readonly sleep: (ms: number) => Promise<void>; readonly timeoutMs?: number },
): Promise<void> {
  try {
    await virsh('domjobabort', [], { domain: uuid });
  } catch (error) {
    if (error instanceof VirshError && (error.reason === 'no-job' || error.reason === 'not-running')) return;
    throw error;
  }
  // virsh returns while QEMU is still cancelling, and domjobinfo says "none" before the scratch files are gone.
  const { sleep, timeoutMs = 60_000 } = options;
  let [waited, pause] = [0, FIRST_POLL_MS];
  while ((await runningBackup(virsh, uuid)) !== null) {
    if (waited >= timeoutMs) throw new VirshTimeout('domjobabort', timeoutMs);
    await sleep(pause);
    waited += pause;
    pause = Math.min(2 * pause, LAST_POLL_MS);
  }
}

/** Milliseconds between two looks. Most jobs are gone within some milliseconds. */
const FIRST_POLL_MS = 2;
const LAST_POLL_MS = 20;

/** Limits the push of one disk, in bytes per second, from now on. No error where it has ended already. */
export async function limitJob(virsh: Virsh, uuid: string, target: string, bytesPerSecond: number): Promise<void> {
  try {
    await virsh('blockjob', ['--path', target, '--bandwidth', String(bytesPerSecond), '--bytes'], { domain: uuid });
  } catch (error) {
    if (!(error instanceof VirshError) || error.reason !== 'no-job') throw error;
  }
}

/**
 * Deletes a checkpoint and its bitmaps, consistent or not; other checkpoints lose nothing by it, since every bitmap
 * goes on recording by itself. `metadataOnly` leaves bitmaps alone and is the only way while the domain is off.
 *
 * @throws VirshError `bitmap-broken` when a bitmap is missing on some disk: then nothing was deleted on any disk.
 */
export async function deleteCheckpoint(
  virsh: Virsh,
  uuid: string,
  name: string,
  options: { readonly metadataOnly?: boolean } = {},
): Promise<void> {
  const args = ['--checkpointname', name, ...(options.metadataOnly ? ['--metadata'] : [])];
  await virsh('checkpoint-delete', args, { domain: uuid });
}

/**
 * Tells libvirt of a checkpoint whose bitmaps are in the images, or says anew which disks have one. `validate` (running
 * domains only) refuses when a bitmap is missing or inconsistent, as VirshError `bitmap-broken`.
 */
export async function redefineCheckpoint(
  virsh: Virsh,
  uuid: string,
  checkpoint: NewCheckpoint & Pick<Checkpoint, 'creationTime'>,
  options: { readonly validate: boolean },
): Promise<void> {
  await redefine(virsh, uuid, checkpointXml(checkpoint), options);
}

/**
 * Whether a checkpoint has a bitmap on each of its disks, and none that is inconsistent. It is told to libvirt again in libvirt's
 * own words, by which nothing changes. Running domains only.
 *
 * @throws VirshError `bitmap-broken`
 */
export async function validateCheckpoint(virsh: Virsh, uuid: string, name: string): Promise<void> {
  await redefine(virsh, uuid, await dumpCheckpoint(virsh, uuid, name), { validate: true });
}

async function redefine(
  virsh: Virsh,
  uuid: string,
  xml: string,
  { validate }: { readonly validate: boolean },
): Promise<void> {
  await virsh('checkpoint-create', ['--redefine', ...(validate ? ['--redefine-validate'] : [])], {
    domain: uuid,
    documents: { '--xmlfile': xml },
  });
}

/** Asks the guest for its time, which an agent that is there answers. @throws VirshError `no-agent` */
export async function pingAgent(virsh: Virsh, uuid: string, options: { readonly timeoutMs: number }): Promise<void> {
  await virsh('domtime', [], { domain: uuid, ...options });
}

/** How many file systems the guest agent froze; 0 means that nothing is frozen. */
export async function freeze(virsh: Virsh, uuid: string, options: { readonly timeoutMs: number }): Promise<number> {
  return counted('Froze', await virsh('domfsfreeze', [], { domain: uuid, ...options }));
}

/** How many file systems were thawed: harmless when none was frozen. */
export async function thaw(virsh: Virsh, uuid: string, options: { readonly timeoutMs: number }): Promise<number> {
  return counted('Thawed', await virsh('domfsthaw', [], { domain: uuid, ...options }));
}

function counted(verb: string, text: string): number {
  const count = new RegExp(`${verb} (\\d+) filesystem`).exec(text)?.[1];
  if (count === undefined) throw new LibvirtAnswerError(`the answer of virsh (${verb} …)`, text);
  return Number(count);
}

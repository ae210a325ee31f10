import type { JobState, LeftOut, SourceDisk, VmState } from '../core/disk.js';
import type { Finding } from '../core/finding.js';
import { listNames } from '../core/listed-names.js';
import { hasStableId } from '../core/match-disks.js';
import { isOurBitmap, isOurJob } from '../core/names.js';
import { obstacleOf } from '../core/obstacles.js';
import { meaningOf } from '../core/run-state.js';
import type { VmFacts } from './facts.js';

/** What there is to say about a VM and each of its disks. */
export function judgeVm(vm: VmFacts): readonly Finding[] {
  const { state, disks } = vm;
  const idOf = (source: SourceDisk): string => disks.find(({ node }) => node === source.address)?.id ?? source.address;
  return [
    ...judgeQemu(vm),
    ...judgeRunState(state),
    ...state.disks.flatMap((source) => judgeDisk(idOf(source), source)),
    ...judgeSharing(state.disks, idOf),
    ...vm.beside.map((what) => info('VM', `in no backup of it: ${what}`)),
    ...state.leftOut.map(judgeLeftOut),
    ...state.jobs.filter((job) => !isOurJob(job)).map(judgeJob),
  ];
}

function judgeQemu({ state, missingCommands, jobSparesGuest, canFleece, user }: VmFacts): Finding[] {
  const found: Finding[] = [];
  const subject = 'VM';
  const { qemuVersion, name, uuid } = state.machine;
  if (missingCommands.length > 0) {
    const what = `QEMU ${qemuVersion} does not have ${missingCommands.join(', ')}, which a backup needs`;
    found.push({ level: 'error', subject, what, todo: 'Run the VM with QEMU 6.0 or later.' });
  }
  const as = user === null ? '' : ` as ${user}`;
  const guards = jobSparesGuest
    ? 'a backup that cannot be written fails, never the guest'
    : canFleece
      ? 'it can fleece'
      : 'it cannot fleece, so a target that fills up or hangs reaches the guest';
  found.push(info(subject, `QEMU ${qemuVersion}${as}, ${state.status}; ${guards}`));
  if (name === null && uuid === null) {
    const what = 'it has neither name nor UUID: a target is known to be its own only by bitmaps and image paths';
    const todo = 'Start QEMU with -name or -uuid, or give --vm-name each time.';
    found.push({ level: 'warning', subject, what, todo });
  }
  if (state.disks.length === 0) {
    found.push({ level: 'error', subject, what: 'there is no disk to back up', todo: null });
  }
  return found;
}

/** A writable disk that no backup has is worth a warning; what is no disk is not. */
export function judgeLeftOut({ name, reason, kind, instead, offer }: LeftOut): Finding {
  const left = info(name, `left out of backups: ${reason}`);
  if (kind !== 'rule') return left;
  return {
    ...left,
    level: 'warning',
    todo: instead ?? (offer ? `Take it with --include ${name}, or leave it out with --exclude.` : null),
  };
}

function judgeRunState(state: VmState): Finding[] {
  const meaning = meaningOf(state);
  if (meaning.kind !== 'refused') return [];
  return [{ level: 'error', subject: 'VM', what: `it ${meaning.why}`, todo: meaning.todo }];
}

/** More bitmaps than this on a disk are no longer the chains of a few targets; each takes memory and time to store. */
export const MANY_BITMAPS = 8;

/** What an image is by itself, whichever way leads to the VM. */
export function judgeImage(id: string, source: SourceDisk): Finding[] {
  const { encrypted, format, compat } = source;
  const found: Finding[] = [];
  const obstacle = obstacleOf(source);
  if (obstacle) {
    const todo = `${obstacle.todo} Or back the others up: --skip-failed-disks`;
    found.push({ level: 'error', subject: id, what: `it cannot be copied: ${obstacle.why}`, todo });
  }
  if (encrypted) {
    const what = 'the image is encrypted, and QEMU would write its backup decrypted';
    const todo = 'Allow that with --allow-plaintext, or leave the disk out with --exclude.';
    found.push({ level: 'error', subject: id, what, todo });
  }
  if (format === 'qcow2' && compat === '0.10') {
    const what = 'qcow2 version 2 holds no bitmaps: every backup reads the whole disk';
    const todo = 'Convert it while the VM is off: qemu-img amend -o compat=1.1 IMAGE';
    found.push({ level: 'warning', subject: id, what, todo });
  }
  return found;
}

function judgeDisk(id: string, source: SourceDisk): Finding[] {
  const found = judgeImage(id, source);
  const say = (level: Finding['level'], what: string, todo: string | null): void => {
    found.push({ level, subject: id, what, todo });
  };
  if (source.format !== 'qcow2') {
    const todo = 'Convert the image to qcow2, or expect a backup that reads the whole disk after each start of the VM.';
    say('warning', `a ${source.format} image stores no bitmap: increments are possible only until QEMU ends`, todo);
  }
  if (!hasStableId(source)) {
    const todo = 'Give the drive, its node or its device an id in the VM (-drive id=, node-name=, -device …,id=).';
    say('warning', `it has no name of its own, so its id ${id} comes from the image file and changes with it`, todo);
  }
  if (source.qdev === null) say('info', 'no device of the guest uses it', null);

  const ours = source.bitmaps.filter(({ name }) => isOurBitmap(name));
  const spoiled = ours.filter(({ inconsistent, recording }) => inconsistent || !recording);
  if (spoiled.length > 0) {
    const what = `bitmaps that QEMU could not store or that do not record: ${listNames(spoiled.map(({ name }) => name))}; QEMU was killed, or somebody disabled them`;
    const todo = 'The chains they belong to go on with a full backup; then: qmpbackup cleanup --remove-bitmaps --stale';
    say('warning', what, todo);
  }
  if (ours.length > MANY_BITMAPS) {
    const todo = 'Remove those that no target needs: qmpbackup cleanup --remove-bitmaps --stale --target DIR …';
    say('warning', `it carries ${ours.length} bitmaps of ours`, todo);
  }
  const foreign = source.bitmaps.filter(({ name }) => !isOurBitmap(name)).map(({ name }) => name);
  if (foreign.length > 0) say('info', `bitmaps of others are left alone: ${listNames(foreign)}`, null);
  return found;
}

/** Two devices on one image, or an image that is written while another one builds on it. */
export function judgeSharing(disks: readonly SourceDisk[], idOf: (source: SourceDisk) => string): Finding[] {
  return disks.flatMap((source, index) => {
    const found: Finding[] = [];
    const twin = disks.slice(index + 1).find(({ address, file }) => address === source.address || file === source.file);
    if (twin) {
      const what = `${source.qdev ?? source.address} and ${twin.qdev ?? twin.address} use the same image, ${source.file}`;
      found.push({ level: 'warning', subject: idOf(source), what, todo: 'Back up one of them only: --exclude' });
    }
    const above = disks.find((other) => other !== source && backingOf(other) === source.file);
    if (above) {
      const what = `it is written to, and is the backing file of ${idOf(above)}, which that damages`;
      found.push({ level: 'warning', subject: idOf(source), what, todo: 'Give one of them an image of its own.' });
    }
    return found;
  });
}

function backingOf({ image }: SourceDisk): string | null {
  if (typeof image !== 'object' || image === null) return null;
  const name = 'full-backing-filename' in image ? image['full-backing-filename'] : null;
  return typeof name === 'string' ? name : null;
}

function judgeJob({ id, type, status }: JobState): Finding {
  return info('VM', `a job of somebody else is ${status}: ${id} (${type}); it is left alone`);
}

function info(subject: string, what: string): Finding {
  return { level: 'info', subject, what, todo: null };
}

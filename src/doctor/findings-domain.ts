import { onPassedThrough } from '../core/beside-disks.js';
import { formatBytes } from '../core/bytes.js';
import { detachedInWords, detachedTodo } from '../core/detached-overlay.js';
import type { SourceDisk } from '../core/disk.js';
import { meaningOfDomain } from '../core/domain-states.js';
import { isFailure } from '../core/failure.js';
import type { Finding } from '../core/finding.js';
import { listNames } from '../core/listed-names.js';
import { isOurBitmap, isOurJob } from '../core/names.js';
import { isTrackingOverlay } from '../core/overlay-names.js';
import { inMemoryInWords, overlaysAreTight, overlaySpaceInWords, WHEN_TIGHT } from '../core/overlay-space.js';
import { domainCommand, virshCommand } from '../core/virsh-hint.js';
import type { DomainAgentFacts, DomainFacts, ScratchFacts } from './domain-facts.js';
import { failure } from './facts.js';
import { judgeImage, judgeLeftOut, judgeSharing, MANY_BITMAPS } from './findings-vm.js';

/** What there is to say about a libvirt domain, its disks, its agent and the place for scratch images. */
export function judgeDomain(facts: DomainFacts): readonly Finding[] {
  const { state, disks } = facts;
  const idOf = (source: SourceDisk): string => disks.find(({ node }) => node === source.address)?.id ?? source.address;
  return [
    ...judgeLife(facts),
    ...judgeMoments(facts),
    ...state.disks.flatMap((source) => judgeDisk(idOf(source), source, facts)),
    ...judgeSharing(state.disks, idOf),
    ...state.leftOut.map(judgeLeftOut),
    ...onPassedThrough(state.passedThrough).map((what) => info('VM', `in no backup of it: ${what}`)),
    ...judgeAgent(facts),
    ...facts.scratch.flatMap(judgeScratch),
    ...judgeOverlays(facts),
    ...judgeOverlayObstacles(facts),
    ...judgeDetachedOverlays(facts),
  ];
}

function judgeLife({ state, connect, uri, version, active, stateReason, missingPrograms }: DomainFacts): Finding[] {
  const found: Finding[] = [];
  const subject = 'VM';
  const name = state.machine.name ?? '';
  const why = stateReason === '' ? '' : ` (${stateReason})`;
  found.push(info(subject, `${version}; the domain is ${state.status}${why}`));
  if (missingPrograms.length > 0) {
    const what = `${listNames(missingPrograms)} ${missingPrograms.length === 1 ? 'was' : 'were'} not found, and increments are written by that`;
    found.push({ level: 'error', subject, what, todo: 'Install it: apt install qemu-utils util-linux' });
  }
  const meaning = meaningOfDomain(state.status, stateReason, { connect, name });
  if (meaning.kind === 'refused') {
    found.push({ level: 'error', subject, what: `it ${meaning.why}`, todo: meaning.todo });
  } else if (!active) {
    found.push(
      info(
        subject,
        'it is off: a backup reads its images as they lie; --start-paused starts it, paused, for a checkpoint',
      ),
    );
  }
  if (state.status === 'paused' && stateReason === 'I/O error') {
    const todo = `See what its storage lacks, then let it go on: ${virshCommand(connect, 'resume', name)}`;
    found.push({ level: 'warning', subject, what: 'a write of its guest failed, and it stands still for that', todo });
  }
  if (/\/session(?:\?|$)/.test(uri)) {
    found.push(info(subject, `it belongs to the session of a user (${uri}): its QEMU runs as that user`));
  }
  if (state.disks.length === 0) {
    found.push({ level: 'error', subject, what: 'there is no disk to back up', todo: null });
  }
  const job = state.jobs.find((each) => !isOurJob(each));
  if (job) {
    const ended = job.type === 'backup' ? ', or end it with --kill-job' : '';
    const todo = `Wait until it has ended: ${virshCommand(connect, 'domjobinfo', name)}${ended}`;
    const what = `libvirt runs one job for a domain at a time, and somebody else's is ${job.status} (${job.type})`;
    found.push({ level: 'error', subject, what, todo });
  }
  return found;
}

/** Checkpoints of others, and snapshots. */
function judgeMoments({ foreignCheckpoints, snapshots, state, connect }: DomainFacts): Finding[] {
  const found: Finding[] = [];
  const subject = 'VM';
  if (foreignCheckpoints.length > 0) {
    found.push(info(subject, `checkpoints of others are left alone: ${listNames(foreignCheckpoints)}`));
  }
  if (snapshots.internal.length > 0) {
    const what = `internal snapshots: ${listNames(snapshots.internal)}; going back to one while there are checkpoints ends the domain`;
    const todo = `Before going back: ${cleanupCommand({ connect, state })}; the next backup is then full.`;
    found.push({ level: 'warning', subject, what, todo });
  }
  if (snapshots.external.length > 0) {
    found.push(info(subject, `external snapshots: ${listNames(snapshots.external)}; increments go on across them`));
  }
  return found;
}

function cleanupCommand(
  { connect, state }: Pick<DomainFacts, 'connect' | 'state'>,
  ...more: readonly string[]
): string {
  return domainCommand(connect, state.machine.name ?? 'NAME', 'cleanup', '--remove-bitmaps', ...more);
}

function judgeDisk(id: string, source: SourceDisk, facts: DomainFacts): Finding[] {
  const { backing, active } = facts;
  const found = judgeImage(id, source);
  const say = (level: Finding['level'], what: string, todo: string | null): void => {
    found.push({ level, subject: id, what, todo });
  };
  const tracked = source.overlays?.some(({ name }) => isTrackingOverlay(name)) ?? false;
  if (source.cannotTrack !== null && !tracked) {
    say(
      'warning',
      source.cannotTrack,
      'Convert the image to qcow2, or expect a backup that reads the whole disk each time.',
    );
  }
  const below = backing[source.address] ?? 0;
  if (below > 0) {
    say(
      'info',
      `its image builds on ${below === 1 ? 'another' : `${below} others`}: a full backup holds them all`,
      null,
    );
  }
  const ours = source.bitmaps.filter(({ name }) => isOurBitmap(name));
  const broken = ours.filter(({ inconsistent }) => inconsistent).map(({ name }) => name);
  if (broken.length > 0) {
    const what = `checkpoints whose bitmaps are missing or broken: ${listNames(broken)}; QEMU was killed, or an older image was put back`;
    const todo = `The chains they belong to go on with a full backup; then: ${cleanupCommand(facts, '--stale')} --target DIR …`;
    say('warning', active ? what : `${what} (as the image says)`, todo);
  }
  if (ours.length > MANY_BITMAPS) {
    const todo = `Remove those that no target needs: ${cleanupCommand(facts, '--stale')} --target DIR …`;
    say('warning', `it carries ${ours.length} checkpoints of ours`, todo);
  }
  return found;
}

function judgeAgent({ agent, active, state, connect }: DomainFacts): Finding[] {
  const subject = 'agent';
  const crash = '--quiesce would make crash-consistent points, --quiesce=require none';
  const { channel, answer } = agent;
  if (channel === 'absent') {
    const todo =
      'Give the domain a channel named org.qemu.guest_agent.0, install qemu-ga in the guest, and use --quiesce.';
    return [{ level: 'info', subject, what: `the domain has no channel for a guest agent: ${crash}`, todo }];
  }
  if (!active || !state.running) return [info(subject, 'it cannot be asked: the guest does not run')];
  if (channel === 'disconnected' || channel === 'configured') {
    const todo = 'Start qemu-ga in the guest.';
    return [{ level: 'warning', subject, what: `no agent is connected: ${crash}`, todo }];
  }
  return judgeAnswer(answer, virshCommand(connect, 'domfsthaw', state.machine.name ?? 'NAME'), crash);
}

function judgeAnswer(answer: DomainAgentFacts['answer'], thaw: string, crash: string): Finding[] {
  const subject = 'agent';
  if (answer === null) return [];
  if (answer === 'frozen') {
    const what = 'the guest is frozen: its programs hang at their next write';
    const todo = `If no other backup is freezing it, thaw it: ${thaw}`;
    return [{ level: 'error', subject, what, todo }];
  }
  if (isFailure(answer)) return [{ ...failure(subject, answer), level: 'warning', what: `${answer.failed}; ${crash}` }];
  const { fileSystems } = answer;
  if (fileSystems === 0) return [info(subject, 'the agent answers, and has no file system to freeze')];
  return [info(subject, `the agent answers: ${fileSystems} ${fileSystems === 1 ? 'file system' : 'file systems'}`)];
}

function judgeScratch({ folder, need, space, write, barred }: ScratchFacts): Finding[] {
  const found: Finding[] = [];
  const subject = 'scratch';
  const elsewhere = 'Choose another folder with --fleece-dir.';
  if (write) found.push({ ...failure(subject, write), todo: elsewhere });
  if (barred) {
    const what = `by the mode of ${barred.folder} the user whom QEMU runs as (uid ${barred.uid}) does not get to ${folder}`;
    found.push({ level: 'warning', subject, what, todo: elsewhere });
  }
  if (isFailure(space)) return [...found, failure(subject, space)];
  const { free, network } = space;
  if (network) {
    const what = `${folder} is on a network file system (or FUSE), which can hang, and writes of the guest with it`;
    found.push({ level: 'warning', subject, what, todo: elsewhere });
  }
  // Only the socket lies there.
  if (need === 0) return found;
  const room = `${folder} has ${formatBytes(free)} free for scratch images of up to ${formatBytes(need)}`;
  if (free >= need) return [...found, info(subject, room)];
  const what = `${room}, which libvirt does not bound: when it is full, the guest is paused until the backup has ended`;
  return [...found, { level: 'warning', subject, what, todo: elsewhere }];
}

function judgeOverlays({ overlays, overlaysInTarget, connect, state }: DomainFacts): Finding[] {
  const subject = 'overlays';
  if (isFailure(overlays)) return [failure(subject, overlays)];
  const merge = domainCommand(connect, state.machine.name ?? 'NAME', 'consolidate-source');
  const elsewhere = `Run the next backup with another --overlay-dir, or take the tracking out: ${merge}`;
  const warn = (what: string): Finding => ({ level: 'warning', subject, what, todo: elsewhere });
  const perFolder = overlays.flatMap((space): Finding[] => {
    const found = space.inMemory ? [warn(inMemoryInWords(space.folder))] : [];
    const held = overlaySpaceInWords(space);
    if (!overlaysAreTight(space)) return [...found, info(subject, held)];
    const todo = `Run the backup now, or more often, make space there, or take the tracking out: ${merge}`;
    return [...found, { level: 'warning', subject, what: `${held}: ${WHEN_TIGHT}`, todo }];
  });
  return [...overlaysInTarget.map(({ failed }) => warn(failed)), ...perFolder];
}

function judgeOverlayObstacles({ overlayObstacles: found }: DomainFacts): Finding[] {
  if (isFailure(found)) return [failure('overlays', found)];
  return found.map(({ disk, what, todo }): Finding => {
    const refused = `the next backup by --method overlay is refused: ${what}`;
    return { level: 'warning', subject: disk ?? 'overlays', what: refused, todo };
  });
}

function judgeDetachedOverlays({ detachedOverlays, connect, state }: DomainFacts): Finding[] {
  if (isFailure(detachedOverlays)) return [failure('overlays', detachedOverlays)];
  const attach = virshCommand(connect, 'attach-disk', state.machine.name ?? 'NAME');
  return detachedOverlays.map((each): Finding => {
    const level = each.atNextStart ? 'info' : 'warning';
    return { level, subject: 'overlays', what: detachedInWords(each), todo: detachedTodo(each, attach) };
  });
}

function info(subject: string, what: string): Finding {
  return { level: 'info', subject, what, todo: null };
}

import { formatBytes } from '../core/bytes.js';
import { isFailure } from '../core/failure.js';
import type { Finding } from '../core/finding.js';
import { failure, type PlanFacts, type SpaceFacts, type TargetFacts } from './facts.js';

/** What there is to say about a target, and about the next backup into it. */
export function judgeTarget(target: TargetFacts, now: string): readonly Finding[] {
  const { folder, exists, lock, space, content, write, qemuWrite, plan } = target;
  const found: Finding[] = [];
  const say = (level: Finding['level'], what: string, todo: string | null): void => {
    found.push({ level, subject: 'target', what, todo });
  };
  if (lock) {
    const todo = lock.fate === 'alive' ? 'Wait until it has ended.' : 'If it has surely ended: --break-lock';
    say('error', `${folder} is locked by ${lock.who}`, todo);
  }
  if (isFailure(content)) found.push(failure('target', content));
  else {
    if (content.otherVm !== null) {
      say('error', content.otherVm, 'Choose another --target; if it is the same VM, give its old name with --vm-name.');
    }
    for (const { text } of content.warnings) say('warning', text, null);
    const lost = content.repairs.filter(({ kind }) => kind === 'redefine-checkpoint');
    if (lost.length > 0) {
      const what = `libvirt has forgotten ${lost.length === 1 ? 'a checkpoint' : `${lost.length} checkpoints`} that its newest files need`;
      const todo = 'The next backup tells libvirt again; or now: qmpbackup recover (--dry-run tells each step)';
      say('warning', what, todo);
    }
    // What a run that is under way has made is no leftover.
    const left = lock?.fate === 'alive' ? 0 : content.repairs.length - lost.length;
    if (left > 0) {
      const steps = `${left} ${left === 1 ? 'step' : 'steps'}`;
      const todo = 'The next backup repairs it; or now: qmpbackup recover (--dry-run tells each step)';
      say('warning', `a run that died left something behind: ${steps} of repair`, todo);
    }
    for (const { file, why } of content.broken) {
      say(
        'warning',
        `${file} cannot be built on or restored from: ${why}`,
        'Put the file back as it was backed up, or give this user the right to read it.',
      );
    }
    for (const lost of content.damage)
      say('warning', lost, 'Put the files back as they were backed up, or give this user the right to read them.');
    if (content.lastPointAt !== null && content.lastPointAt > now) {
      const what = `it is ${now} by the clock here, earlier than the last point (${content.lastPointAt})`;
      say('warning', what, 'Set the clock: points would seem to be in the wrong order.');
    }
    const has = content.points === 1 ? '1 point' : `${content.points} points`;
    say('info', `${folder}: ${exists ? has : 'made by the first backup'}`, null);
  }
  if (isFailure(write)) found.push(failure('target', write));
  else if (Math.abs(write.clockAheadMs) > CLOCK_SKEW_MS) {
    const seconds = Math.round(write.clockAheadMs / 1000);
    const what = `the clock of its file system is ${Math.abs(seconds)} s ${seconds > 0 ? 'ahead of' : 'behind'} ours`;
    say('warning', what, 'Synchronise the clocks of this host and of the file server.');
  }
  if (qemuWrite && isFailure(qemuWrite)) found.push(failure('target', qemuWrite));
  if (isFailure(space)) found.push(failure('target', space));
  else found.push(...judgeSpace(space, plan));
  if (plan) found.push(...(isFailure(plan) ? [failure('target', plan)] : judgePlan(plan)));
  return found;
}

/** Time stamps of files are rounded, to two seconds at the worst. Milliseconds. */
const CLOCK_SKEW_MS = 5_000;

function judgeSpace({ free, reserve, network }: SpaceFacts, plan: TargetFacts['plan']): Finding[] {
  const found: Finding[] = [];
  const subject = 'target';
  if (network) {
    const what = 'it is on a network file system (or FUSE), which can hang, and writes of the guest with it';
    found.push({ level: 'info', subject, what, todo: null });
  }
  const need = plan && !isFailure(plan) ? plan.need : 0;
  const has = `${formatBytes(free)} are free, of which ${formatBytes(reserve)} stay in reserve`;
  if (need > free - reserve) {
    const what = `the next backup can need ${formatBytes(need)}; ${has}`;
    const todo = `Free ${formatBytes(need - (free - reserve))} there, or choose another target.`;
    found.push({ level: 'error', subject, what, todo });
  } else {
    const next = need > 0 ? `; the next backup can need ${formatBytes(need)}` : '';
    found.push({ level: 'info', subject, what: `${has}${next}`, todo: null });
  }
  return found;
}

function judgePlan({ disks, known, fleece }: PlanFacts): Finding[] {
  const way = fleece.fleece ? 'by fleecing' : 'without fleecing';
  const how: Finding = { level: 'info', subject: 'VM', what: `the next backup goes ${way}: ${fleece.why}`, todo: null };
  const levels = disks.map(({ disk, level, reason }): Finding => {
    const what = `the next backup is ${level.toUpperCase()}: ${reason}`;
    if (level !== 'full' || !known.includes(disk)) return { level: 'info', subject: disk, what, todo: null };
    return { level: 'warning', subject: disk, what, todo: 'Nothing is lost by it; --level inc would be refused.' };
  });
  return [how, ...levels];
}

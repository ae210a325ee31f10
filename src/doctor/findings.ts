import { type Failure, isFailure } from '../core/failure.js';
import type { Finding } from '../core/finding.js';
import { listNames } from '../core/listed-names.js';
import { isOurJob } from '../core/names.js';
import { type DoctorFacts, failure } from './facts.js';
import { judgeDomain } from './findings-domain.js';
import { judgeTarget } from './findings-target.js';
import { judgeVm } from './findings-vm.js';

/** What `doctor` makes of what it saw. */

const CLOCK_STEP_MS = 1_000;

/** Errors first, then warnings, then the rest. */
export function judge(facts: DoctorFacts): readonly Finding[] {
  const found = [
    ...judgeHost(facts),
    ...judged('VM', facts.vm, judgeVm),
    ...judged('VM', facts.domain, judgeDomain),
    ...leftInVm(facts),
    ...facts.deadStreams.map(leftByStream),
    ...judgeAgent(facts),
    ...judged('target', facts.target, (target) => judgeTarget(target, facts.now)),
  ];
  return (['error', 'warning', 'info'] as const).flatMap((level) => found.filter((each) => each.level === level));
}

function judged<T extends object>(
  subject: string,
  facts: T | Failure | undefined,
  judge: (facts: T) => readonly Finding[],
): readonly Finding[] {
  if (facts === undefined) return [];
  return isFailure(facts) ? [failure(subject, facts)] : judge(facts);
}

/** Where the target tells what is to be repaired, this is part of it. */
function leftInVm({ vm, domain, target }: DoctorFacts): Finding[] {
  const seen = vm ?? domain;
  if (seen === undefined || isFailure(seen) || (target && !isFailure(target) && !isFailure(target.content))) return [];
  const { jobs, ownNodes, ownExports } = seen.state;
  const left = [...jobs.filter(isOurJob).map(({ id }) => id), ...ownNodes.map(({ node }) => node), ...ownExports];
  if (left.length === 0) return [];
  const what = `a run that died left jobs or nodes behind: ${listNames(left)}`;
  const todo = 'The next backup ends them; or now: qmpbackup recover --target DIR';
  return [{ level: 'warning', subject: 'VM', what, todo }];
}

function leftByStream(what: string): Finding {
  const todo = 'The next backup of the VM repairs it; or now: qmpbackup recover --target DIR';
  return { level: 'warning', subject: 'VM', what, todo };
}

function judgeHost({ qemuImg, clockStepMs }: DoctorFacts): Finding[] {
  const found: Finding[] = [];
  if (isFailure(qemuImg)) found.push(failure('host', qemuImg));
  if (Math.abs(clockStepMs) > CLOCK_STEP_MS) {
    found.push({
      level: 'warning',
      subject: 'host',
      what: `the clock was set by ${Math.round(clockStepMs / 1000)} s while doctor ran`,
      todo: 'Look after the time service: points carry the time of this clock.',
    });
  }
  return found;
}

function judgeAgent({ agent, vm }: DoctorFacts): Finding[] {
  const subject = 'agent';
  if (agent === undefined) {
    // Where a run holds the VM the agent is left to it.
    if (vm === undefined || isFailure(vm)) return [];
    const what = 'no agent socket was given: the guest cannot be frozen, and points are crash-consistent';
    return [{ level: 'info', subject, what, todo: 'Give --agent-socket PATH, and back up with --quiesce.' }];
  }
  if (isFailure(agent)) {
    const what = `${agent.failed}; --quiesce would make crash-consistent points, --quiesce=require none`;
    return [{ level: 'warning', subject, what, todo: agent.hint }];
  }
  if (agent.status === 'frozen') {
    return [
      {
        level: 'error',
        subject,
        what: 'the guest is frozen: its programs hang at their next write',
        todo: 'If no other backup is freezing it, thaw it: qmpbackup recover, or guest-fsfreeze-thaw by hand.',
      },
    ];
  }
  if (agent.missing.length > 0) {
    return [
      {
        level: 'warning',
        subject,
        what: `the agent (${agent.version}) cannot freeze: it does not allow ${agent.missing.join(', ')}`,
        todo: "Allow them in the guest: qemu-ga's block-rpcs (blacklist) or allow-rpcs.",
      },
    ];
  }
  return [{ level: 'info', subject, what: `the agent (${agent.version}) can freeze the guest`, todo: null }];
}

import { type Failure, isFailure } from '../../core/failure.js';
import type { DomainAgentFacts, DomainFacts, ScratchFacts } from '../../doctor/domain-facts.js';
import type { AgentFacts, DoctorFacts, PlanFacts, TargetContent, TargetFacts, VmFacts } from '../../doctor/facts.js';
import type { DoctorResult } from '../../operations/doctor/doctor.js';
import { envelope } from './envelope.js';
import { fleecePart, warningPart } from './parts.js';
import { repairDocument } from './repair.js';
import type { DoctorDocument } from './schemas/doctor.js';
import type { FailurePart } from './schemas/parts.js';
import { vmDocument } from './vm.js';

type Facts = DoctorDocument['facts'];
type Known<Part> = Exclude<NonNullable<Part>, FailurePart | string>;
type VmPart = Known<Facts['vm']>;
type DomainPart = Known<Facts['domain']>;
type TargetPart = Known<Facts['target']>;

export function doctorDocument({ findings, facts }: DoctorResult): DoctorDocument {
  return {
    ...envelope('doctor'),
    findings: findings.map(({ level, subject, what, todo }) => ({ level, subject, what, todo })),
    facts: factsPart(facts),
  };
}

function factsPart({ now, clockStepMs, qemuImg, vm, domain, agent, target }: DoctorFacts): Facts {
  return {
    now,
    clockStepMs,
    qemuImg: typeof qemuImg === 'string' ? qemuImg : failurePart(qemuImg),
    vm: vm && orFailure(vm, vmPart),
    domain: domain && orFailure(domain, domainPart),
    agent: agent && orFailure(agent, agentPart),
    target: target && orFailure(target, targetPart),
  };
}

function orFailure<Seen extends object, Part>(seen: Seen | Failure, part: (seen: Seen) => Part): Part | FailurePart {
  return isFailure(seen) ? failurePart(seen) : part(seen);
}

function failurePart({ failed, hint }: Failure): FailurePart {
  return { failed, hint };
}

function disksPart(disks: VmFacts['disks']): VmPart['disks'] {
  return disks.map(({ id, node }) => ({ id, node }));
}

function vmPart(vm: VmFacts): VmPart {
  const { beside, missingCommands, jobSparesGuest, canFleece, user } = vm;
  return {
    state: vmDocument(vm.state),
    disks: disksPart(vm.disks),
    beside,
    missingCommands,
    jobSparesGuest,
    canFleece,
    user,
  };
}

function domainPart(domain: DomainFacts): DomainPart {
  const { uri, version, active, stateReason, backing, missingPrograms, foreignCheckpoints, snapshots } = domain;
  return {
    state: vmDocument(domain.state),
    disks: disksPart(domain.disks),
    uri,
    version,
    active,
    stateReason,
    backing,
    missingPrograms,
    foreignCheckpoints,
    snapshots: { internal: snapshots.internal, external: snapshots.external },
    agent: domainAgentPart(domain.agent),
    scratch: domain.scratch.map(scratchPart),
  };
}

function domainAgentPart({ channel, answer }: DomainAgentFacts): DomainPart['agent'] {
  if (answer === null || answer === 'frozen') return { channel, answer };
  return { channel, answer: orFailure(answer, ({ fileSystems }) => ({ fileSystems })) };
}

function scratchPart({ folder, need, space, write, barred }: ScratchFacts): DomainPart['scratch'][number] {
  return {
    folder,
    need,
    space: orFailure(space, ({ free, network }) => ({ free, network })),
    write: write && failurePart(write),
    barred: barred && { folder: barred.folder, uid: barred.uid },
  };
}

function agentPart({ version, missing, status }: AgentFacts): Known<Facts['agent']> {
  return { version, missing, status };
}

function targetPart({ folder, exists, lock, space, content, write, qemuWrite, plan }: TargetFacts): TargetPart {
  return {
    folder,
    exists,
    lock: lock && { who: lock.who, fate: lock.fate },
    space: orFailure(space, ({ free, total, reserve, network }) => ({ free, total, reserve, network })),
    content: orFailure(content, contentPart),
    write: orFailure(write, ({ clockAheadMs }) => ({ clockAheadMs })),
    qemuWrite: qemuWrite && orFailure(qemuWrite, ({ ok }) => ({ ok })),
    plan: plan && orFailure(plan, planPart),
  };
}

function contentPart(content: TargetContent): Known<TargetPart['content']> {
  const { targetId, points, lastPointAt, otherVm, repairs, broken, damage, warnings } = content;
  return {
    targetId,
    points,
    lastPointAt,
    otherVm,
    repairs: repairs.map(repairDocument),
    broken: broken.map(({ file, why }) => ({ file, why })),
    damage,
    warnings: warnings.map(warningPart),
  };
}

function planPart({ disks, known, need, fleece }: PlanFacts): Known<TargetPart['plan']> {
  return {
    disks: disks.map(({ disk, level, reason }) => ({ disk, level, reason })),
    known,
    need,
    fleece: fleecePart(fleece),
  };
}

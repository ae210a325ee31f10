import type { VmState } from '../core/disk.js';
import type { Failure } from '../core/failure.js';
import type { Finding } from '../core/finding.js';
import type { FleeceChoice } from '../core/fleece-choice.js';
import type { Level } from '../core/level.js';
import type { RepairAction } from '../core/reconcile.js';
import type { Warning } from '../core/warning.js';
import type { DomainFacts } from './domain-facts.js';

/** What `doctor` sees (gathered in operations/doctor), for it to say what a backup would meet. */
export interface DoctorFacts {
  /** ISO 8601. */
  readonly now: string;
  /** How much the clock was set, forward or back, while doctor ran: milliseconds. */
  readonly clockStepMs: number;
  /** Version of qemu-img. */
  readonly qemuImg: string | Failure;
  /** Undefined when no monitor was given. */
  readonly vm: VmFacts | Failure | undefined;
  /** Undefined when no libvirt domain was given. */
  readonly domain: DomainFacts | Failure | undefined;
  /** Undefined when no agent was given or it was not asked; that of a domain is libvirt's. */
  readonly agent: AgentFacts | Failure | undefined;
  /** What streams of this VM that died have left, in words. */
  readonly deadStreams: readonly string[];
  /** Undefined when no target was given. */
  readonly target: TargetFacts | Failure | undefined;
}

export interface VmFacts {
  readonly state: VmState;
  /** Disks with the ids that they have in the target, or would get. */
  readonly disks: readonly { readonly id: string; readonly node: string }[];
  /** What belongs to the machine and is in no point. */
  readonly beside: readonly string[];
  /** Commands that a backup needs and this QEMU does not have. */
  readonly missingCommands: readonly string[];
  /** Whether an old copy that cannot be written may fail the job, and not the guest's write. */
  readonly jobSparesGuest: boolean;
  /** Whether this QEMU has what fleecing needs. */
  readonly canFleece: boolean;
  /** `root`, where this user can see the process. */
  readonly user: string | null;
}

export interface AgentFacts {
  readonly version: string;
  /** Commands of a freeze that the agent does not have or has disabled. */
  readonly missing: readonly string[];
  readonly status: 'thawed' | 'frozen';
}

export interface TargetFacts {
  readonly folder: string;
  readonly exists: boolean;
  readonly lock: { readonly who: string; readonly fate: 'alive' | 'elsewhere' } | null;
  readonly space: SpaceFacts | Failure;
  readonly content: TargetContent | Failure;
  /** Whether this user can write there; milliseconds that its file system's clock is ahead of ours. */
  readonly write: { readonly clockAheadMs: number } | Failure;
  /** Whether QEMU can; null when it was not asked. */
  readonly qemuWrite: { readonly ok: true } | Failure | null;
  readonly plan: PlanFacts | Failure | null;
}

/** Bytes. */
export interface SpaceFacts {
  readonly free: number;
  readonly total: number;
  readonly reserve: number;
  readonly network: boolean;
}

export interface TargetContent {
  readonly targetId: string | null;
  readonly points: number;
  /** ISO 8601, of the newest point. */
  readonly lastPointAt: string | null;
  /** Why it belongs to another VM. */
  readonly otherVm: string | null;
  /** What the next run repairs. */
  readonly repairs: readonly RepairAction[];
  /** What is wrong with files that the next increment would build on, by `<disk>/<file>`. */
  readonly broken: readonly { readonly file: string; readonly why: string }[];
  /** In words: files that are gone or altered, and the points that are lost with them. */
  readonly damage: readonly string[];
  readonly warnings: readonly Warning[];
}

/** What `backup --level auto` would do now. */
export interface PlanFacts {
  readonly disks: readonly { readonly disk: string; readonly level: Level; readonly reason: string }[];
  /** Disks that have a backup in this target. */
  readonly known: readonly string[];
  /** Bytes that it can need. */
  readonly need: number;
  /** Whether `--fleece auto` would fleece. */
  readonly fleece: FleeceChoice;
}

export function failure(subject: string, { failed, hint }: Failure): Finding {
  return { level: 'error', subject, what: failed, todo: hint };
}

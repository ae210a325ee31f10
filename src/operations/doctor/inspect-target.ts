import type { BackupOptions } from '../../backends/backup-options.js';
import { fleeceFor } from '../../backends/qmp/choose-fleecing.js';
import { observeRepairs, type RepairableVm } from '../../backends/repair.js';
import { knownDisks } from '../../core/chain.js';
import type { VmState } from '../../core/disk.js';
import { type Failure, isFailure } from '../../core/failure.js';
import type { FleeceChoice } from '../../core/fleece-choice.js';
import type { VmIdentity } from '../../core/identity.js';
import { matchDisks } from '../../core/match-disks.js';
import { bitmapName } from '../../core/names.js';
import type { PlanRequest } from '../../core/plan.js';
import { afterRepairs, type RepairAction } from '../../core/reconcile.js';
import { defaultReserve, isShort, spaceNeeded } from '../../core/space.js';
import type { Warning } from '../../core/warning.js';
import type { PlanFacts, SpaceFacts, TargetContent, TargetFacts } from '../../doctor/facts.js';
import { QmpBackupError } from '../../errors.js';
import { ANSWER_MS, freeSpace } from '../../host/free-space.js';
import { isBehindLinks } from '../../host/is-there.js';
import type { QemuFeatures } from '../../qemu/features.js';
import { type CheckedParents, checkParents, damageIn } from '../../repository/check-parents.js';
import { targetLockedBy } from '../../repository/lock.js';
import { planInto } from '../../repository/plan-into.js';
import { readTarget, type TargetState, whyOtherVm } from '../../repository/target.js';

/** What doctor sees of a target, read and nothing else. */
export type Probed = Pick<TargetFacts, 'write' | 'qemuWrite'>;

interface LookOptions {
  readonly monthly: boolean;
  readonly identity: VmIdentity;
  /** Null where there is no VM to plan for. */
  readonly vm: VmState | null;
  readonly probed: Probed | null;
  readonly now: Date;
  /** What this QEMU can do, where it was asked. */
  readonly features: QemuFeatures | null;
  /** Where the VM is a libvirt domain; null elsewhere. */
  readonly domain: DomainWay | null;
}

export interface DomainWay {
  /** What a dead run left, and what libvirt forgot. */
  observe(target: TargetState): Promise<readonly RepairAction[]>;
  /** How the next backup keeps the instant. */
  readonly fleecing: FleeceChoice;
}

export interface SeenTarget {
  readonly facts: TargetFacts;
  /** Disk ids of the target by block node. */
  readonly ids: ReadonlyMap<string, string>;
}

/** @throws QmpBackupError when the target cannot be looked at at all */
export async function inspectTarget(folder: string, options: LookOptions): Promise<SeenTarget> {
  const space = await freeSpace(folder, { timeoutMs: ANSWER_MS });
  const exists = await isBehindLinks(folder);
  const { probed, vm } = options;
  const facts: Omit<TargetFacts, 'content' | 'plan' | 'space'> & { readonly space: SpaceFacts } = {
    folder,
    exists,
    lock: exists ? await targetLockedBy(folder) : null,
    space: { ...space, reserve: defaultReserve(space) },
    write: probed?.write ?? { clockAheadMs: 0 },
    qemuWrite: probed?.qemuWrite ?? null,
  };
  const read = await readOrSay(folder, options.monthly);
  if (isFailure(read)) return { facts: { ...facts, content: read, plan: null }, ids: new Map() };
  const known = matchDisks(read.catalog, vm?.disks ?? []);
  const parents = await checkParents(folder, read.catalog, [...knownDisks(read.catalog).keys()]);
  const content = await contentOf(read, options, parents);
  const plan = vm && content.otherVm === null ? await planFor(read, vm, content, parents, facts.space, options) : null;
  return {
    facts: { ...facts, content, plan },
    ids: new Map(known.map(({ id, source }) => [source.address, id])),
  };
}

async function contentOf(
  state: TargetState,
  { identity, vm, domain }: LookOptions,
  parents: CheckedParents,
): Promise<TargetContent> {
  const { catalog } = state;
  const otherVm = (vm && whyOtherVm(state, identity, vm.disks)) ?? null;
  const damage = catalog ? await damageIn(state.target, catalog, parents) : [];
  const isUnknown = ({ code }: Warning): boolean => code === 'memory-lost';
  const idle: RepairableVm = { disks: [], jobs: [], status: 'unknown', ownNodes: [], ownExports: [] };
  return {
    targetId: catalog?.targetId ?? null,
    points: catalog?.points.length ?? 0,
    lastPointAt: catalog?.points.at(-1)?.createdAt ?? null,
    otherVm,
    repairs: otherVm === null ? await (domain ? domain.observe(state) : observeRepairs(state, vm ?? idle)) : [],
    damage: damage.filter((each) => !isUnknown(each)).map(({ text }) => text),
    broken: [...parents.brokenChains].map(([file, why]) => ({ file, why })),
    warnings: [...state.warnings, ...damage.filter(isUnknown)],
  };
}

async function planFor(
  state: TargetState,
  seen: VmState,
  { repairs }: TargetContent,
  parents: CheckedParents,
  { free, reserve, network }: SpaceFacts,
  { now, features, domain }: LookOptions,
): Promise<PlanFacts | Failure> {
  const vm = afterRepairs(seen, repairs);
  const { catalog } = parents;
  const attempt = '0'.repeat(12);
  try {
    const { plan } = await planInto(state, {
      ...{ request: PLAIN_REQUEST, vm, attempt, now, parents },
      bitmapName: (disk) => bitmapName(catalog?.targetId ?? '0'.repeat(16), disk, attempt),
    });
    const need = spaceNeeded(plan.disks);
    const target = { network, spaceIsShort: isShort({ free, need, reserve }) };
    return {
      disks: plan.disks.map(({ disk, level, reason }) => ({ disk, level, reason })),
      known: [...knownDisks(catalog).keys()],
      need,
      fleece: domain?.fleecing ?? fleeceFor(PLAIN_REQUEST, { features, plan, target }),
    };
  } catch (error) {
    if (!(error instanceof QmpBackupError)) throw error;
    return { failed: error.message, hint: error.hint ?? null };
  }
}

/** A backup with no option but its target; what would end it is told of each disk and not of the first alone. */
const PLAIN_REQUEST: PlanRequest & Pick<BackupOptions, 'fleece' | 'verify' | 'speedLimit'> = {
  level: 'auto',
  include: [],
  exclude: [],
  excludeRaw: false,
  allowPlaintext: true,
  skipFailed: true,
  compress: false,
  fullInstead: false,
  chainLimits: [],
  fleece: 'auto',
  verify: null,
  speedLimit: 0,
};

async function readOrSay(folder: string, monthly: boolean): Promise<TargetState | Failure> {
  try {
    return await readTarget(folder, monthly);
  } catch (error) {
    if (!(error instanceof QmpBackupError)) throw error;
    return { failed: error.message, hint: error.hint ?? null };
  }
}

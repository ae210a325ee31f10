import { stat } from 'node:fs/promises';
import { fleecingObstacle } from '../../backends/qmp/choose-fleecing.js';
import { observeRepairs, type RepairableVm } from '../../backends/repair.js';
import { knownDisks } from '../../core/chain.js';
import type { VmState } from '../../core/disk.js';
import { type Failure, isFailure } from '../../core/failure.js';
import { chooseFleece, type FleeceChoice } from '../../core/fleece-choice.js';
import type { VmIdentity } from '../../core/identity.js';
import { matchDisks } from '../../core/match-disks.js';
import { bitmapName } from '../../core/names.js';
import { planBackup } from '../../core/plan.js';
import { afterRepairs, type RepairAction } from '../../core/reconcile.js';
import { defaultReserve, spaceNeeded } from '../../core/space.js';
import type { PlanFacts, SpaceFacts, TargetContent, TargetFacts } from '../../doctor/facts.js';
import { QmpBackupError } from '../../errors.js';
import { ANSWER_MS, freeSpace } from '../../host/free-space.js';
import type { QemuFeatures } from '../../qemu/features.js';
import { type CheckedParents, checkParents, damageIn } from '../../repository/check-parents.js';
import { targetLockedBy } from '../../repository/lock.js';
import { listFiles, readTarget, type TargetState, whyOtherVm } from '../../repository/target.js';

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
  const exists = await isThere(folder);
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
    ids: new Map(known.map(({ id, source }) => [source.node, id])),
  };
}

async function contentOf(
  state: TargetState,
  { identity, vm, domain }: LookOptions,
  { brokenChains, untouched }: CheckedParents,
): Promise<TargetContent> {
  const { catalog } = state;
  const otherVm = (vm && whyOtherVm(state, identity, vm.disks)) ?? null;
  const idle: RepairableVm = { disks: [], jobs: [], status: 'unknown', ownNodes: [], ownExports: [] };
  return {
    targetId: catalog?.targetId ?? null,
    points: catalog?.points.length ?? 0,
    lastPointAt: catalog?.points.at(-1)?.createdAt ?? null,
    otherVm,
    repairs: otherVm === null ? await (domain ? domain.observe(state) : observeRepairs(state, vm ?? idle)) : [],
    damage: catalog ? await damageIn(state.target, catalog, untouched) : [],
    broken: [...brokenChains].map(([file, why]) => ({ file, why })),
    warnings: state.warnings,
  };
}

async function planFor(
  state: TargetState,
  seen: VmState,
  { repairs }: TargetContent,
  { brokenChains, catalog }: CheckedParents,
  { free, reserve, network }: SpaceFacts,
  { now, features, domain }: LookOptions,
): Promise<PlanFacts | Failure> {
  const vm = afterRepairs(seen, repairs);
  const known = matchDisks(catalog, vm.disks);
  const files = await listFiles(
    state.target,
    known.map(({ id }) => id),
  );
  try {
    const plan = planBackup({
      request: {
        level: 'auto',
        include: [],
        exclude: [],
        excludeRaw: false,
        allowPlaintext: true,
        skipFailed: true,
        compress: false,
      },
      vm,
      known,
      catalog,
      bitmapName: (disk) => bitmapName(catalog?.targetId ?? '0'.repeat(16), disk, '0'.repeat(12)),
      attempt: '0'.repeat(12),
      nowSeconds: Math.floor(now.getTime() / 1000),
      files,
      brokenChains,
    });
    const need = spaceNeeded(plan.disks);
    const fleece =
      domain?.fleecing ??
      chooseFleece({
        mode: 'auto',
        verify: false,
        network,
        speedLimit: 0,
        // As a run decides it.
        spaceIsShort: free - need < 2 * reserve,
        obstacle: fleecingObstacle(features, plan.disks, vm),
        jobBreaksItself: features?.driveBackup.onCbwError ?? false,
      });
    return {
      disks: plan.disks.map(({ disk, level, reason }) => ({ disk, level, reason })),
      known: [...knownDisks(catalog).keys()],
      need,
      fleece,
    };
  } catch (error) {
    if (!(error instanceof QmpBackupError)) throw error;
    return { failed: error.message, hint: error.hint ?? null };
  }
}

async function readOrSay(folder: string, monthly: boolean): Promise<TargetState | Failure> {
  try {
    return await readTarget(folder, monthly);
  } catch (error) {
    if (!(error instanceof QmpBackupError)) throw error;
    return { failed: error.message, hint: error.hint ?? null };
  }
}

async function isThere(folder: string): Promise<boolean> {
  return stat(folder).then(
    () => true,
    () => false,
  );
}

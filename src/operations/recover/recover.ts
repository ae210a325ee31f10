import { stat } from 'node:fs/promises';
import { resolve } from 'node:path';
import type { AskedVm } from '../../backends/address.js';
import { refuseLibvirtAgent } from '../../backends/qmp/refuse-libvirt.js';
import { deadStreams, sweepStreams } from '../../backends/dead-streams.js';
import { carryOutInTarget } from '../../backends/repair.js';
import { contextOf, type VerbContext, type WarningEvent } from '../../backends/verb-context.js';
import type { VmState } from '../../core/disk.js';
import { displayName, identityOf, type VmIdentity } from '../../core/identity.js';
import { type Journal, ownerText } from '../../core/journal.js';
import { afterRepairs, reconcileOffline, reconcileVm, type RepairAction } from '../../core/reconcile.js';
import type { Warn, Warning } from '../../core/warning.js';
import { messageOf, QmpBackupError } from '../../errors.js';
import { type Unwind, unwinding } from '../../flow/unwind.js';
import { freeSpace } from '../../host/free-space.js';
import { isBeingWritten } from '../../qemu-tools/in-use.js';
import { describeEndpoint, type Endpoint } from '../../qmp/endpoint.js';
import { lockForReading } from '../../repository/disk-folder.js';
import { filePath, monthsWithJournal } from '../../repository/layout.js';
import { lockTarget } from '../../repository/lock.js';
import { lockToRemove } from '../../repository/making-room.js';
import { listFiles, readTarget, refuseOtherVm, type TargetState } from '../../repository/target.js';
import { vmFolder } from '../../repository/vm-folder.js';
import { openForRepair, type VmInRepair } from './open-for-repair.js';
import { type RecoverOptions, recoverOptions, type RecoverRequest } from './options.js';

/** Repairs what a dead run left behind, on its own: the same repair that every backup begins with. */
export type RecoverContext = VerbContext<WarningEvent>;

interface Run extends RecoverOptions, Pick<RecoverContext, 'signal' | 'trace'> {
  readonly warn: Warn;
}

export interface RecoverResult {
  readonly targets: readonly RecoveredTarget[];
  /** What was ended in QEMU where no target is concerned. */
  readonly vm: readonly RepairAction[];
  readonly dryRun: boolean;
}

export interface RecoveredTarget {
  readonly target: string;
  /** The run whose journal was found. */
  readonly run: DeadRun | null;
  readonly actions: readonly RepairAction[];
  /** What is left because the VM was not asked, in words; the journal stays until it is. */
  readonly left: readonly string[];
}

export interface DeadRun {
  readonly what: string;
  readonly startedAt: string;
  /** It died after its point had been sealed, which counts. */
  readonly sealed: boolean;
}

/**
 * @throws QmpBackupError `no-catalog` when there is no such folder; `locked`; `unreachable`; `unsafe` for a target of
 * another VM or a journal that cannot be understood
 */
export function recover(request: RecoverRequest, given: Partial<RecoverContext> = {}): Promise<RecoverResult> {
  return unwinding(async (unwind) => {
    const { signal, trace, report } = contextOf(given);
    const warn: Warn = (said) => report({ kind: 'warning', ...said });
    const run: Run = { ...recoverOptions(request), signal, trace, warn };
    const root = resolve(run.target);
    await freeSpace(root, { timeoutMs: ANSWER_MS, signal });
    await requireFolder(root);
    if (run.agent) await refuseLibvirtAgent(run.agent);
    return run.vm ? recoverWithVm(run, run.vm, root, unwind) : recoverOffline(run, root, unwind);
  });
}

/** Milliseconds that a target which may hang gets to answer at all. */
const ANSWER_MS = 60_000;

async function recoverWithVm(run: Run, address: AskedVm, root: string, unwind: Unwind): Promise<RecoverResult> {
  const session = await openForRepair(address, { ...run, purpose: `recover of ${root}` }, unwind);
  const identity = identityOf(session.state.machine, run.label);
  const folders = run.monthly ? await monthsWithJournal(await vmFolder(root, nameFor(identity))) : [root];
  const signal = AbortSignal.any([run.signal, session.signal]);
  const { vm: swept, targets } = await recoverStreams(run, session);
  let vm = swept;
  for (const folder of folders) {
    signal.throwIfAborted();
    await lock(folder, run, unwind);
    const state = withAgent(await readTarget(folder, run.monthly), run.agent);
    state.warnings.forEach(run.warn);
    refuseOtherVm(state, identity, vm.disks);
    const done = await repairOrSay(session, state, vm, run.dryRun);
    done.warnings.forEach(run.warn);
    vm = done.vm;
    targets.push({ target: folder, run: deadRun(state), actions: done.actions, left: [] });
  }
  // Without a journal, and so with --monthly perhaps without any folder.
  const rest = run.dryRun ? reconcileVm(vm) : await repairRest(session, vm, run);
  return { targets, vm: rest, dryRun: run.dryRun };
}

/** A stream has a folder of its own, which nobody names: those of this VM are looked for. */
async function recoverStreams(
  { dryRun, warn, agent }: Run,
  session: VmInRepair,
): Promise<{ readonly vm: VmState; readonly targets: RecoveredTarget[] }> {
  const { state: seen, monitor } = session;
  const swept = { uuid: seen.machine.uuid, monitor };
  const targetOf = (state: TargetState, actions: readonly RepairAction[]): RecoveredTarget => ({
    ...{ target: state.target, run: deadRun(state), actions, left: [] },
  });
  if (!dryRun) {
    const repair = (stream: TargetState, vm: VmState): ReturnType<VmInRepair['repair']> =>
      session.repair(withAgent(stream, agent), vm);
    const { vm, streams } = await sweepStreams(swept, seen, repair, warn);
    return { vm, targets: streams.map(({ stream, report }) => targetOf(stream, report.actions)) };
  }
  const targets: RecoveredTarget[] = [];
  for (const stream of await deadStreams(swept, warn)) {
    targets.push(targetOf(stream, await session.observe(withAgent(stream, agent), seen)));
  }
  return { vm: seen, targets };
}

async function repairRest(session: VmInRepair, vm: VmState, { warn }: Run): Promise<readonly RepairAction[]> {
  const { report } = await session.repairAlone(vm);
  report.warnings.forEach(warn);
  return report.actions;
}

interface Repaired {
  readonly vm: VmState;
  readonly actions: readonly RepairAction[];
  readonly warnings: readonly Warning[];
}

async function repairOrSay(session: VmInRepair, state: TargetState, seen: VmState, dryRun: boolean): Promise<Repaired> {
  if (dryRun) {
    const actions = await session.observe(state, seen);
    return { vm: afterRepairs(seen, actions), actions, warnings: [] };
  }
  const { vm, report } = await session.repair(state, seen);
  return { vm, ...report };
}

/** The part that needs no monitor: a frozen guest is thawed, and files of the dead run that nobody writes any more go. */
async function recoverOffline(run: Run, root: string, unwind: Unwind): Promise<RecoverResult> {
  const called = { uuid: null, name: null, label: run.label };
  const folders = run.monthly ? await monthsWithJournal(await vmFolder(root, nameFor(called))) : [root];
  const targets: RecoveredTarget[] = [];
  for (const folder of folders) {
    run.signal.throwIfAborted();
    await lock(folder, run, unwind);
    targets.push(await recoverFolder(folder, run));
  }
  return { targets, vm: [], dryRun: run.dryRun };
}

async function recoverFolder(folder: string, { agent, dryRun, warn }: Run): Promise<RecoveredTarget> {
  const state = withAgent(await readTarget(folder, false), agent);
  const files = await listFiles(folder, state.journal?.disks.map(({ disk }) => disk) ?? []);
  const found = reconcileOffline({ ...state, files }, new Set());
  const inUse = new Set<string>();
  for (const action of found.now) {
    if (action.kind !== 'delete-file') continue;
    if (await isBeingWritten(filePath(folder, action.disk, action.file))) inUse.add(`${action.disk}/${action.file}`);
  }
  const { now, waiting } = reconcileOffline({ ...state, files }, inUse);
  const warnings: Warning[] = [];
  if (!dryRun) for (const action of now) await carryOutInTarget(folder, action, warnings);
  warnings.forEach(warn);
  return { target: folder, run: deadRun(state), actions: now, left: waiting ? whatIsLeft(waiting, [...inUse]) : [] };
}

function whatIsLeft(journal: Journal, inUse: readonly string[]): readonly string[] {
  return [
    ...inUse.map((file) => `${file} stays: a QEMU is still writing it`),
    `run.json stays: bitmaps and jobs of that run may still be in the VM (its monitor was ${ownerText(journal.owner)})`,
    ...(journal.stops ? ['that run may have stopped the VM: only its monitor can let it go on'] : []),
  ];
}

function deadRun({ journal, catalog }: TargetState): DeadRun | null {
  if (!journal) return null;
  const sealed = catalog?.points.some(({ id }) => id === journal.attempt) ?? false;
  return { what: journal.what, startedAt: journal.startedAt, sealed };
}

/** The agent's socket may have another place than the dead run knew. */
function withAgent(state: TargetState, agent: Endpoint | null): TargetState {
  const { journal } = state;
  if (!agent || !journal || journal.freezes === null) return state;
  return { ...state, journal: { ...journal, freezes: { kind: 'agent', endpoint: describeEndpoint(agent) } } };
}

async function lock(folder: string, { breakLock, dryRun, warn }: Run, unwind: Unwind): Promise<void> {
  const request = { breakLock, purpose: `recover of ${folder}` };
  const held = dryRun ? await lockForReading(lockTarget, folder, request, warn) : await lockToRemove(folder, request);
  if (held) unwind.defer(() => held.release());
}

function nameFor(identity: VmIdentity): string {
  const name = displayName(identity);
  if (name !== null) return name;
  throw new QmpBackupError('usage', '--monthly needs the name of the VM, which is that of its folder', {
    hint: 'Give it with --vm-name NAME, or the VM itself with --socket or --domain.',
  });
}

async function requireFolder(root: string): Promise<void> {
  try {
    if ((await stat(root)).isDirectory()) return;
  } catch (error) {
    throw new QmpBackupError('no-catalog', `the target ${root} cannot be opened: ${messageOf(error)}`, {
      cause: error,
      hint: 'Check the path, and whether its file system is mounted.',
    });
  }
  throw new QmpBackupError('no-catalog', `the target ${root} is not a folder`, { hint: 'Check the path.' });
}

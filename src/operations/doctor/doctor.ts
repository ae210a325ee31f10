import { resolve } from 'node:path';
import type { AskedVm } from '../../backends/address.js';
import { deadStreams, LEFT_BY_STREAM, type SweptVm } from '../../backends/dead-streams.js';
import { inspectDomainForDoctor } from '../../backends/libvirt/inspect-for-doctor.js';
import { observeDomainRepairs } from '../../backends/libvirt/repair.js';
import { journalledEndpoint } from '../../backends/qmp/journalled-endpoint.js';
import { refuseLibvirtAgent } from '../../backends/qmp/refuse-libvirt.js';
import { openVm, type VmSession } from '../../backends/qmp/session.js';
import { contextOf, type VerbContext } from '../../backends/verb-context.js';
import { besideDisks } from '../../core/beside-disks.js';
import { type Failure, isFailure } from '../../core/failure.js';
import type { Finding } from '../../core/finding.js';
import { identityOf, type VmIdentity } from '../../core/identity.js';
import { matchDisks } from '../../core/match-disks.js';
import type { DomainFacts } from '../../doctor/domain-facts.js';
import type { DoctorFacts, VmFacts } from '../../doctor/facts.js';
import { judge } from '../../doctor/findings.js';
import { allOf } from '../../flow/all-of.js';
import { collectFailure } from '../../flow/collect-failure.js';
import { type Unwind, unwinding } from '../../flow/unwind.js';
import { canFreeze, GuestAgent } from '../../guest-agent/client.js';
import { ANSWER_MS, freeSpace } from '../../host/free-space.js';
import { makeProbeFile } from '../../host/probe-file.js';
import { qemuImgVersion } from '../../qemu-tools/version.js';
import { type QemuFeatures, readFeatures } from '../../qemu/features.js';
import { probeWritable } from '../../qemu/probe-target.js';
import { readTpms } from '../../qemu/tpms.js';
import { run } from '../../qmp/commands.js';
import type { Endpoint } from '../../qmp/endpoint.js';
import { QmpCommandError } from '../../qmp/errors.js';
import { refuseDiskFolder, refuseOverlaysInTarget } from '../../repository/nesting.js';
import { targetFolder } from '../../repository/target.js';
import { type DomainWay, inspectTarget, type Probed } from './inspect-target.js';
import { type DoctorOptions, doctorOptions, type DoctorRequest } from './options.js';

/** Looks for everything that would make a backup fail or be worse than expected. Changes nothing that it leaves. */
export interface DoctorResult {
  readonly findings: readonly Finding[];
  readonly facts: DoctorFacts;
}

export type DoctorContext = Omit<VerbContext<never>, 'report'>;

export async function doctor(request: DoctorRequest, given: Partial<DoctorContext> = {}): Promise<DoctorResult> {
  const [asked, context] = [doctorOptions(request), contextOf(given)];
  const options = { ...asked, trace: context.trace };
  const { signal } = context;
  const [begun, monotonic] = [context.now(), performance.now()];
  // First: whatever else touches a hung mount hangs too.
  const named = options.target === null ? null : resolve(options.target);
  const answers = named === null ? undefined : await collectFailure(freeSpace(named, { timeoutMs: ANSWER_MS, signal }));
  const hangs = answers && isFailure(answers) ? answers : undefined;
  const folderOf: FolderOf = async (identity) =>
    named === null || hangs ? null : targetFolder(named, options.monthly, identity, begun);

  const qemuImg = await collectFailure(qemuImgVersion());
  const seen = options.vm ? await collectFailure(inspectVmForDoctor(options, options.vm, folderOf, signal)) : undefined;
  signal.throwIfAborted();
  const identity = seen && !isFailure(seen) ? seen.identity : { uuid: null, name: null, label: options.label };
  const ofMonitor = options.vm?.kind === 'monitor';
  const vm = seen && (isFailure(seen) ? (ofMonitor ? seen : undefined) : seen.vm);
  const domain = seen && (isFailure(seen) ? (ofMonitor ? undefined : seen) : seen.domain);
  // A run that holds the VM may be freezing the guest, and the agent serves one client: it was asked by lookAtVm only.
  const agent = seen && !isFailure(seen) ? seen.agent : undefined;
  const target =
    named === null || hangs
      ? hangs
      : await collectFailure(
          Promise.resolve().then(async () => {
            const folder = (await folderOf(identity)) ?? '';
            await refuseDiskFolder(named);
            const probed = seen && !isFailure(seen) ? seen.probed : await probe(folder, undefined);
            const state = seen && !isFailure(seen) ? (seen.vm ?? seen.domain)?.state : undefined;
            return inspectTarget(folder, {
              monthly: options.monthly,
              identity,
              vm: state ?? null,
              probed,
              now: context.now(),
              features: seen && !isFailure(seen) ? seen.features : null,
              domain: seen && !isFailure(seen) ? seen.way : null,
            });
          }),
        );
  signal.throwIfAborted();
  const now = context.now();
  const facts: DoctorFacts = {
    now: now.toISOString(),
    clockStepMs: now.getTime() - begun.getTime() - (performance.now() - monotonic),
    qemuImg,
    vm: withKnownIds(vm, target && !isFailure(target) ? target.ids : new Map()),
    domain: withKnownIds(domain, target && !isFailure(target) ? target.ids : new Map()),
    agent,
    deadStreams: seen && !isFailure(seen) ? seen.deadStreams : [],
    target: target && (isFailure(target) ? target : target.facts),
  };
  return { findings: judge(facts), facts };
}

type TracedOptions = DoctorOptions & Pick<DoctorContext, 'trace'>;
type FolderOf = (identity: VmIdentity) => Promise<string | null>;

interface SeenVm {
  readonly features: QemuFeatures | null;
  readonly vm: VmFacts | undefined;
  readonly domain: DomainFacts | undefined;
  readonly way: DomainWay | null;
  readonly identity: VmIdentity;
  readonly deadStreams: readonly string[];
  readonly agent: DoctorFacts['agent'];
  readonly probed: Probed | null;
}

/** All that needs the VM's lock, which is held no longer than this. */
function inspectVmForDoctor(
  options: TracedOptions,
  address: AskedVm,
  folderOf: FolderOf,
  signal: AbortSignal,
): Promise<SeenVm> {
  return unwinding(async (unwind) => {
    if (address.kind === 'domain') return inspectDomain(options, address, folderOf, unwind);
    const { monitor } = address;
    const session = await openVm({ ...options, monitor, purpose: 'doctor', endDeadJobsMs: null }, unwind);
    signal.throwIfAborted();
    const { client, state, owner } = session;
    const identity = identityOf(state.machine, options.label);
    const [features, commands, tpms] = await Promise.all([
      readFeatures(client),
      run(client, 'query-commands'),
      readTpms(client),
    ]);
    const known = matchDisks(undefined, state.disks);
    const has = new Set(commands.map(({ name }) => name));
    const agent = options.agent ? await collectFailure(inspectAgent(options.agent, signal)) : undefined;
    signal.throwIfAborted();
    const folder = await folderOf(identity);
    return {
      identity,
      deadStreams: await streamsOf({ uuid: state.machine.uuid, monitor: journalledEndpoint(monitor) }),
      features,
      domain: undefined,
      way: null,
      agent,
      probed: folder === null ? null : await probe(folder, session),
      vm: {
        state,
        disks: known.map(({ id, source }) => ({ id, node: source.address })),
        beside: besideDisks(state, tpms),
        missingCommands: NEEDED_COMMANDS.filter((name) => !has.has(name)),
        jobSparesGuest: features.driveBackup.onCbwError,
        canFleece: features.snapshotAccess && (features.copyBeforeWrite?.onCbwError ?? false),
        user: owner?.user ?? null,
      },
    };
  });
}

/** The files of a domain's backup are written by this process, so QEMU is not asked about the target. */
async function inspectDomain(
  options: TracedOptions,
  address: Extract<AskedVm, { readonly kind: 'domain' }>,
  folderOf: FolderOf,
  unwind: Unwind,
): Promise<SeenVm> {
  const { session, facts, fleecing, overlayFolders } = await inspectDomainForDoctor(
    { ...options, ...address, purpose: 'doctor' },
    unwind,
  );
  const identity = identityOf(facts.state.machine, options.label);
  const folder = await folderOf(identity);
  // What hangs, or cannot be told, is no folder here.
  const target = folder === null ? null : options.target;
  const folders = isFailure(overlayFolders) ? [] : overlayFolders;
  const inTarget = await allOf(folders.map((each) => collectFailure(refuseOverlaysInTarget(each, target))));
  return {
    identity,
    deadStreams: await streamsOf({ uuid: facts.state.machine.uuid, monitor: null }),
    features: null,
    vm: undefined,
    domain: { ...facts, overlaysInTarget: inTarget.filter((each) => each !== null) },
    agent: undefined,
    probed: folder === null ? null : await probe(folder, undefined),
    way: {
      observe: async (target) => {
        const known = isFailure(facts.detachedOverlays) ? [] : facts.detachedOverlays;
        const detached = new Set(known.flatMap(({ overlay, buildsOn }) => [overlay, ...buildsOn]));
        const repairs = await observeDomainRepairs(session, target, facts.state);
        // No run that died has left them, and nothing repairs them.
        return repairs.filter((each) => each.kind !== 'delete-overlay' || !detached.has(each.path));
      },
      fleecing,
    },
  };
}

async function streamsOf(vm: SweptVm): Promise<readonly string[]> {
  const unreadable: string[] = [];
  const streams = await deadStreams(vm, ({ text }) => unreadable.push(text));
  return [...streams.map(({ target }) => `${LEFT_BY_STREAM} in ${target}`), ...unreadable];
}

const NEEDED_COMMANDS = [
  'transaction',
  'drive-backup',
  'block-dirty-bitmap-add',
  'block-dirty-bitmap-remove',
  'blockdev-add',
  'blockdev-del',
  'query-named-block-nodes',
  'query-jobs',
  'job-cancel',
  'job-dismiss',
] as const;

/** A file of ours in the target (or above it, where it is still to be made), which QEMU is asked to open. */
async function probe(folder: string, session: VmSession | undefined): Promise<Probed> {
  const owner = process.getuid?.() === 0 ? session?.owner : undefined;
  const file = await collectFailure(makeProbeFile(folder, owner));
  if (isFailure(file)) return { write: file, qemuWrite: null };
  try {
    const write = { clockAheadMs: file.clockAheadMs };
    return { write, qemuWrite: session ? await askQemu(session, file.path) : null };
  } finally {
    await file.remove();
  }
}

async function askQemu({ client, owner }: VmSession, path: string): Promise<{ readonly ok: true } | Failure> {
  try {
    await probeWritable(client, path, 'threads');
    return { ok: true };
  } catch (error) {
    if (!(error instanceof QmpCommandError)) throw error;
    const who = owner ? `QEMU (user ${owner.user}, pid ${owner.pid})` : 'QEMU';
    const hint = /No such file/.test(error.desc)
      ? 'The file is there, and QEMU does not see it: QEMU runs in a container or chroot, or on another host. Give it the target under the same path.'
      : 'Give the user that QEMU runs as access to every folder of the path (also in AppArmor or SELinux rules), or run the backup as root.';
    return { failed: `${who} cannot write to the target: ${error.desc}`, hint };
  }
}

const AGENT_MS = 3_000;

/** Asks, and never freezes. */
async function inspectAgent(
  endpoint: Endpoint,
  signal: AbortSignal,
): Promise<Exclude<DoctorFacts['agent'], undefined>> {
  await refuseLibvirtAgent(endpoint);
  const agent = await GuestAgent.connect(endpoint, { timeoutMs: AGENT_MS, signal });
  try {
    const info = await agent.info(AGENT_MS);
    const freeze = ['guest-fsfreeze-status', 'guest-fsfreeze-freeze', 'guest-fsfreeze-thaw'];
    const missing = canFreeze(info) ? [] : freeze.filter((name) => !info.enabled.has(name));
    return { version: info.version, missing, status: await agent.fsfreezeStatus(AGENT_MS) };
  } finally {
    agent.close();
  }
}

/** The ids that the target gave to the disks, where it knows them. */
function withKnownIds<T extends Pick<VmFacts, 'disks'>>(
  vm: T | Failure | undefined,
  ids: ReadonlyMap<string, string>,
): T | Failure | undefined {
  if (!vm || isFailure(vm)) return vm;
  return { ...vm, disks: vm.disks.map(({ id, node }) => ({ id: ids.get(node) ?? id, node })) };
}

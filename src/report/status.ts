import { basename, dirname } from 'node:path';
import { folderOf, settingAt, targetOf, type Vm } from '../config/vm.js';
import type { Judgement, RunFacts, StatusLevel } from '../core/status.js';
import { isMisdated, judgeStatus, worstLevel } from '../core/status.js';
import { daysIn } from '../core/time-span.js';
import { collectFailure } from '../flow/collect-failure.js';
import { ANSWER_MS } from '../host/free-space.js';
import { isThere } from '../host/is-there.js';
import { within } from '../host/within.js';
import type { ListedPoint } from '../operations/list.js';
import { vmFolder } from '../repository/vm-folder.js';
import { historyOf, type RunHistory, type VmHistory } from '../run/history.js';
import { readTargetSummaries, summarizedFolders, type TargetSummary } from './target-summary.js';

/** Whether all is well with the backups of many VMs, from their targets and from how the last runs went. */
export interface VmStatus extends Judgement {
  readonly vm: string;
  readonly target: string;
  /** Null where the target could not be read. */
  readonly facts: TargetSummary | null;
  /** The newest point that can be restored as a whole. One that is dated in the future is none, unless all are. */
  readonly lastGood: ListedPoint | null;
  readonly ageMs: number | null;
  readonly maxAgeMs: number | null;
  /** Points of the newest chain. */
  readonly chainPoints: number;
  readonly damaged: number;
  readonly history: VmHistory | null;
}

export interface Status {
  readonly level: StatusLevel;
  readonly vms: readonly VmStatus[];
}

const DAY_MS = 86_400_000;

/**
 * What the status of VMs is read from. Of many, whoever shows them need not hold all points at once; it is plain data, so that threads can
 * be handed it.
 */
export type VmSource = OfVm | OfFolder | OfUnread;

interface OfSource {
  /** Where `verify --boot` keeps pictures of them; null where it keeps none, or nobody knows. */
  readonly evidence: string | null;
}

interface OfVm extends OfSource {
  readonly of: 'vm';
  readonly asked: AskedAt;
  /** Of one that only runs knew its target: with that gone, too, it is none. Null for others. */
  readonly whileThere: string | null;
}

interface OfFolder extends OfSource {
  readonly of: 'folder';
  readonly target: string;
  readonly asking: Asking;
}

interface OfUnread extends OfSource {
  readonly of: 'unread';
  readonly asked: Asked;
  readonly why: string;
}

interface Asking {
  readonly now: Date;
  /** Where the configuration does not say it. */
  readonly maxAgeMs: number | null;
}

interface Asked extends Asking {
  readonly vm: string;
  readonly target: string;
  readonly isGone: boolean;
  readonly history: VmHistory | null;
}

interface AskedAt extends Asked {
  /** Name of the folder that `--monthly` makes. */
  readonly label: string | null;
}

/**
 * Of the VMs of a configuration, and of those that its runs knew and nothing knows any more while their targets are there.
 * `isAll`: false where not all could be asked which VMs there are, so that those may be there as before.
 */
export function sourcesOfConfig(
  vms: readonly Vm[],
  history: RunHistory,
  { isAll, ...asking }: Asking & { readonly isAll: boolean },
): readonly VmSource[] {
  const { now, maxAgeMs } = asking;
  const known = vms.map((vm): VmSource => {
    const days = daysIn(settingAt(vm, 'max-age'));
    const asked = {
      ...{ vm: vm.name, target: targetOf(vm), label: monthlyName(vm), isGone: false, now },
      maxAgeMs: days === undefined ? maxAgeMs : days * DAY_MS,
      history: historyOf(history, vm.name) ?? null,
    };
    return { of: 'vm', evidence: settingAt(vm, 'verify.evidence'), asked, whileThere: null };
  });
  const folders = new Set(vms.map(folderOf));
  // A target that a VM of another name has now is of one that was renamed: it belongs to one VM.
  const isRenamed = ({ target, folder }: VmHistory): boolean =>
    folders.has(target) || (folder !== null && folders.has(dirname(folder)));
  const left = history.vms.filter((each) => !vms.some(({ name }) => name === each.vm) && !isRenamed(each));
  const gone = left.map((each): VmSource => {
    const asked = { vm: each.vm, target: each.folder ?? each.target, label: null, ...asking, isGone: isAll };
    return { of: 'vm', evidence: null, asked: { ...asked, history: each }, whileThere: each.target };
  });
  return [...known, ...gone];
}

/** Of all VMs in folders, of which no run is known; each once, though folders lie in one another. */
export async function sourcesOfTargets(targets: readonly string[], asking: Asking): Promise<readonly VmSource[]> {
  const found = await Promise.all(
    targets.map(async (target): Promise<readonly (OfFolder | OfUnread)[]> => {
      const folders = await collectFailure(summarizedFolders(target));
      if (!('failed' in folders)) {
        return folders.map((folder) => ({ of: 'folder', evidence: null, target: folder, asking }));
      }
      const asked = { ...asking, target, isGone: false, history: null, vm: basename(target) };
      return [{ of: 'unread', evidence: null, asked, why: folders.failed }];
    }),
  );
  const places = new Map(found.flat().map((each) => [each.of === 'folder' ? each.target : each.asked.target, each]));
  return [...places.values()];
}

/** None of a VM that is gone together with its target. */
export async function readStatuses(source: VmSource): Promise<readonly VmStatus[]> {
  if (source.of === 'folder') return statusesIn(source.target, source.asking);
  if (source.of === 'unread') return [judged(source.asked, null, source.why)];
  const { asked, whileThere } = source;
  // What does not answer may be there.
  if (whileThere !== null && (await within(ANSWER_MS, isThere(whileThere))) === false) return [];
  return [await statusAt(asked)];
}

async function statusesIn(target: string, asking: Asking): Promise<readonly VmStatus[]> {
  const read = await collectFailure(readTargetSummaries(target));
  const asked = { ...asking, target, isGone: false, history: null };
  if ('failed' in read) return [judged({ ...asked, vm: basename(target) }, null, read.failed)];
  return [
    ...read.summaries.map((facts) => judged({ ...asked, ...nameIn(target, facts) }, facts, null)),
    ...read.unread.map((each) =>
      judged({ ...asked, vm: basename(each.target), target: each.target }, null, each.error.message),
    ),
  ];
}

/** One that has no name is called after its own folder, of which there may be several. */
function nameIn(target: string, { vm, folders }: TargetSummary): Pick<Asked, 'vm' | 'target'> {
  if (vm !== null) return { vm, target };
  const own = folders[0]?.target ?? target;
  return { vm: basename(own), target: own };
}

/** All at once: one that does not answer holds up no other. `isAll`: all is known that there is to know of them; of what nobody knows nothing can be well. */
export async function statusOf(sources: readonly VmSource[], isAll: boolean): Promise<Status> {
  const vms = (await Promise.all(sources.map(readStatuses))).flat();
  const levels = vms.map(({ level }) => level);
  return { level: worstLevel(isAll ? levels : [...levels, 'warning']), vms };
}

function monthlyName(vm: Vm): string | null {
  return vm.values.get('monthly')?.given === true ? settingAt(vm, 'vm-name') : null;
}

async function statusAt(asked: AskedAt): Promise<VmStatus> {
  const { target, label } = asked;
  const read = await collectFailure(factsAt(target, label));
  if ('failed' in read) return judged(asked, null, read.failed);
  return judged(asked, read, null);
}

async function factsAt(target: string, label: string | null): Promise<TargetSummary> {
  const { summaries: found, unread } = await readTargetSummaries(
    label === null ? target : await vmFolder(target, label),
  );
  if (unread[0]) throw unread[0].error;
  const [first, ...others] = found;
  if (!first || others.length === 0) {
    return first ?? { vm: null, points: [], unknown: [], allocated: 0, oldestProofAt: null, folders: [], space: null };
  }
  return {
    ...first,
    points: found.flatMap(({ points }) => points),
    unknown: found.flatMap(({ unknown }) => unknown),
    folders: found.flatMap(({ folders }) => folders),
    allocated: found.reduce((sum, each) => sum + each.allocated, 0),
    oldestProofAt: found.flatMap(({ oldestProofAt }) => oldestProofAt ?? []).toSorted()[0] ?? null,
  };
}

function judged(asked: Asked, facts: TargetSummary | null, unread: string | null): VmStatus {
  const { vm, target, isGone, now, maxAgeMs, history } = asked;
  const points = facts?.points ?? [];
  const good = points.filter(({ notWhole }) => notWhole === null);
  const newest = newestOf(good);
  const lastGood = newestOf(good.filter((each) => !isMisdated(timeOf(each), now.getTime()))) ?? newest;
  const ageMs = lastGood && Math.max(0, now.getTime() - timeOf(lastGood));
  const aheadMs = newest === null ? 0 : Math.max(0, timeOf(newest) - now.getTime());
  const notWhole = newestOf(points.filter((each) => each.notWhole !== null))?.notWhole ?? null;
  const damaged = points.length - good.length;
  const run = history && runFacts(history);
  const judgement = judgeStatus({
    ...{ unread, isGone, ageMs, aheadMs, maxAgeMs, damaged, run },
    ...{ whyDamaged: notWhole, unknown: facts?.unknown ?? [] },
    notBooted: notBooted(points),
  });
  return {
    ...judgement,
    vm,
    target,
    facts,
    lastGood,
    ageMs,
    maxAgeMs,
    damaged,
    chainPoints: newestChain(points),
    history,
  };
}

function timeOf({ point }: ListedPoint): number {
  return Date.parse(point.createdAt);
}

function newestOf(points: readonly ListedPoint[]): ListedPoint | null {
  let newest: { readonly point: ListedPoint; readonly at: number } | null = null;
  for (const point of points) {
    const at = timeOf(point);
    if (newest === null || at >= newest.at) newest = { point, at };
  }
  return newest && newest.point;
}

function newestChain(points: readonly ListedPoint[]): number {
  const newest = points.findLast(({ point }) => point.chain !== null)?.point.chain ?? null;
  return newest === null ? 0 : points.filter(({ point }) => point.chain === newest).length;
}

/** Of the points the one that was started last. */
export function lastBoot(points: readonly ListedPoint[]): ListedPoint['booted'] {
  const boots = points.flatMap(({ booted }) => booted ?? []);
  return boots.toSorted((a, b) => Date.parse(a.at) - Date.parse(b.at)).at(-1) ?? null;
}

function notBooted(points: readonly ListedPoint[]): string | null {
  const boot = lastBoot(points);
  return boot === null || boot.why === null ? null : `the point that was started last does not boot: ${boot.why}`;
}

function runFacts({ run }: VmHistory): RunFacts {
  const failed = run.steps.filter(({ result }) => result === 'failed');
  return {
    result: run.result,
    failures: failed.map(({ verb, why }) => `${verb} failed: ${why ?? 'it was not said why'}`),
    warnings: run.steps.flatMap(({ verb, result, why, warnings }) => [
      ...(result === 'warnings' && why !== null ? [`${verb}: ${why}`] : []),
      ...warnings.map((text) => `${verb}: ${text}`),
    ]),
  };
}

import { basename } from 'node:path';
import { settingAt, targetOf, type Vm } from '../config/vm.js';
import type { Judgement, RunFacts, StatusLevel } from '../core/status.js';
import { judgeStatus, worstLevel } from '../core/status.js';
import { daysIn } from '../core/time-span.js';
import { collectFailure } from '../flow/collect-failure.js';
import { ANSWER_MS } from '../host/free-space.js';
import { isThere } from '../host/is-there.js';
import { within } from '../host/within.js';
import type { ListedPoint } from '../operations/list.js';
import { vmFolder } from '../repository/vm-folder.js';
import { historyOf, type RunHistory, type VmHistory } from '../run/history.js';
import { readTargetSummaries, type TargetSummary } from './target-summary.js';

/** Whether all is well with the backups of many VMs, from their targets and from how the last runs went. */
export interface VmStatus extends Judgement {
  readonly vm: string;
  readonly target: string;
  /** Null where the target could not be read. */
  readonly facts: TargetSummary | null;
  /** The newest point that can be restored as a whole. */
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

/** Of the VMs of a configuration, and of those that its runs knew and nothing knows any more while their targets are there. */
export async function statusOfConfig(
  vms: readonly Vm[],
  history: RunHistory,
  { now, maxAgeMs }: { readonly now: Date; readonly maxAgeMs: number | null },
): Promise<Status> {
  const known = await Promise.all(
    vms.map((vm) => {
      const days = daysIn(settingAt(vm, 'max-age'));
      return statusOf({
        ...{ vm: vm.name, target: targetOf(vm), label: monthlyName(vm), isGone: false, now },
        maxAgeMs: days === undefined ? maxAgeMs : days * DAY_MS,
        history: historyOf(history, vm.name) ?? null,
      });
    }),
  );
  const left = history.vms.filter((each) => !vms.some(({ name }) => name === each.vm));
  const gone = await Promise.all(
    left.map(async (each) => {
      // What does not answer may be there.
      if ((await within(ANSWER_MS, isThere(each.target))) === false) return [];
      const asked = { vm: each.vm, target: each.folder ?? each.target, label: null, isGone: true, now, maxAgeMs: null };
      return [await statusOf({ ...asked, history: each })];
    }),
  );
  const all = [...known, ...gone.flat()];
  return { level: worstLevel(all.map(({ level }) => level)), vms: all };
}

/** Of all VMs in folders, of which no run is known. */
export async function statusOfTargets(
  targets: readonly string[],
  { now, maxAgeMs }: { readonly now: Date; readonly maxAgeMs: number | null },
): Promise<Status> {
  const found = await Promise.all(
    targets.map(async (target) => {
      const read = await collectFailure(readTargetSummaries(target));
      const asked = { target, isGone: false, now, maxAgeMs, history: null };
      if ('failed' in read) return [judged({ ...asked, vm: basename(target) }, null, read.failed)];
      return [
        ...read.summaries.map((facts) => judged({ ...asked, vm: facts.vm ?? basename(target) }, facts, null)),
        ...read.unread.map((each) =>
          judged({ ...asked, vm: basename(each.target), target: each.target }, null, each.error.message),
        ),
      ];
    }),
  );
  const vms = found.flat();
  return { level: worstLevel(vms.map(({ level }) => level)), vms };
}

function monthlyName(vm: Vm): string | null {
  return vm.values.get('monthly')?.given === true ? settingAt(vm, 'vm-name') : null;
}

interface Asked {
  readonly vm: string;
  readonly target: string;
  readonly isGone: boolean;
  readonly now: Date;
  readonly maxAgeMs: number | null;
  readonly history: VmHistory | null;
}

/** `label`: name of the folder that `--monthly` makes. */
async function statusOf(asked: Asked & { readonly label: string | null }): Promise<VmStatus> {
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
  const points = found.flatMap((each) => each.points);
  if (!first || others.length === 0) return first ?? { vm: null, points, allocated: 0, oldestProofAt: null };
  const proofs = found.flatMap(({ oldestProofAt }) => oldestProofAt ?? []);
  const allocated = found.reduce((sum, each) => sum + each.allocated, 0);
  return { vm: first.vm, points, allocated, oldestProofAt: proofs.toSorted()[0] ?? null };
}

function judged(asked: Asked, facts: TargetSummary | null, unread: string | null): VmStatus {
  const { vm, target, isGone, now, maxAgeMs, history } = asked;
  const points = facts?.points ?? [];
  const good = points.filter(({ notWhole }) => notWhole === null);
  const lastGood = good.toSorted((a, b) => timeOf(a) - timeOf(b)).at(-1) ?? null;
  const ageMs = lastGood && now.getTime() - timeOf(lastGood);
  const damaged = points.length - good.length;
  const run = history && runFacts(history);
  const judgement = judgeStatus({ unread, isGone, ageMs, maxAgeMs, damaged, notBooted: notBooted(points), run });
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

import type { RunHistory, VmHistory } from '../run/history.js';
import type { Standing, Trouble } from './what-is-told.js';

/** What there is to tell of a run, however it ended. */
export interface RunOutcome {
  /** Absolute path of the configuration. */
  readonly config: string;
  readonly begunAt: Date;
  readonly endedAt: Date;
  /** Of all VMs that are known, this run included. */
  readonly history: RunHistory;
  /** Names of the VMs that there are; null where that could not be found out. */
  readonly vms: readonly string[] | null;
  readonly notBegun: readonly string[];
  /** What has failed of the run itself, in words. */
  readonly problems: readonly string[];
  /** Whether it was for all VMs: only such a run can tell that nothing is wrong any more. */
  readonly isWhole: boolean;
}

/** Whether it did all that it was started for. */
export function isClean({ history, vms, notBegun, problems }: RunOutcome): boolean {
  return (
    problems.length === 0 &&
    notBegun.length === 0 &&
    presentOf(history, vms).every(({ run }) => run.result !== 'failed')
  );
}

export function standingOf({ history, vms, problems, isWhole, endedAt }: RunOutcome): Standing {
  const known = presentOf(history, vms);
  const failing = known.filter(({ run }) => run.result === 'failed');
  const run: readonly Trouble[] =
    problems.length === 0 ? [] : [{ vm: null, since: endedAt.toISOString(), why: problems.join('; ') }];
  return {
    troubles: [...run, ...failing.map((each) => ({ vm: each.vm, since: each.failingSince ?? '', why: whyOf(each) }))],
    sound: [
      ...(run.length === 0 && isWhole ? [null] : []),
      // Of one that was left out, or whose check was not made again, nothing is known.
      ...known.filter((each) => each.failingSince === null && each.run.result !== 'skipped').map(({ vm }) => vm),
    ],
  };
}

/** Of a VM that is no longer there nothing is told; `status` does. */
export function presentOf({ vms: known }: RunHistory, vms: readonly string[] | null): readonly VmHistory[] {
  return known.filter(({ vm }) => vms === null || vms.includes(vm));
}

/** Characters of a reason: some quote what a program has printed. */
const MOST_WHY = 600;

export function whyOf({ run }: VmHistory): string {
  const failed = run.steps.filter(({ result }) => result === 'failed');
  const told = failed.map(({ verb, why }) => `${verb} failed: ${why ?? 'it was not said why'}`).join('; ');
  return told.length > MOST_WHY ? `${told.slice(0, MOST_WHY)} ...` : told;
}

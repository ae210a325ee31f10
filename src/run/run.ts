import { setTimeout as sleep } from 'node:timers/promises';
import type { Config } from '../config/config.js';
import type { HookName } from '../config/hooks.js';
import type { RunSettings } from '../config/run-settings.js';
import { targetOf, type Vm } from '../config/vm.js';
import { messageOf, QmpBackupError } from '../errors.js';
import { mountedDevice } from '../host/mounts.js';
import { lockConfig } from '../repository/lock.js';
import { historyOf, readHistory, type VmHistory, type VmResult, withVm, writeHistory } from './history.js';
import { type HookEnd, hookText, runHook } from './hooks.js';
import { runVm, type VmContext, type VmEvent } from './run-vm.js';
import { inTurns } from './turns.js';

/** A run of many VMs, one configuration at a time. */
export interface RunContext extends Omit<VmContext, 'report' | 'isLate' | 'config'> {
  readonly report: (event: RunEvent) => void;
  /** From 0 to 1. */
  readonly random: () => number;
}

export type RunEvent =
  | VmEvent
  | { readonly kind: 'waiting'; readonly ms: number }
  /** No other run is at work. */
  | { readonly kind: 'started' }
  | { readonly kind: 'not-begun'; readonly vm: string; readonly why: string }
  /** A hook of the run that tidies up has failed. */
  | { readonly kind: 'hook-failed'; readonly hook: HookName; readonly why: string }
  /** What earlier runs did is not known. */
  | { readonly kind: 'lost'; readonly why: string }
  /** How it went is not remembered. */
  | { readonly kind: 'not-kept'; readonly why: string };

export interface RunResult {
  /** Those that were begun, in the order in which they ended. */
  readonly ended: readonly VmHistory[];
  /** Names of those that were not begun, as it was too late or the run was ended. */
  readonly notBegun: readonly string[];
  /** Why it is not remembered how it went, so that `status` cannot tell; null where it is. */
  readonly notKept: string | null;
}

/**
 * Backs up, prunes and checks `vms`, and remembers of each how that went. A dry run changes nothing, and is held up by none.
 *
 * @throws QmpBackupError `locked` where a run of the same configuration is at work
 */
export async function runAll(config: Config, vms: readonly Vm[], context: RunContext): Promise<RunResult> {
  // Counted from before the jitter, which would else take it to the next day.
  const deadline = deadlineOf(config.run, context.now());
  const isLate = (): boolean => deadline !== null && context.now() > deadline;
  if (context.dryRun) return betweenHooks(config, vms, { ...context, isLate });
  const lock = await lockConfig(config.file, { breakLock: false, purpose: `run of ${config.file}` });
  try {
    const signal = AbortSignal.any([context.signal, lock.signal]);
    await waitJitter(config.run, context, signal);
    context.report({ kind: 'started' });
    return await betweenHooks(config, vms, { ...context, signal, isLate });
  } finally {
    await lock.release();
  }
}

/** @throws QmpBackupError `failed` where the hook before the run fails */
async function betweenHooks(config: Config, vms: readonly Vm[], context: EachContext): Promise<RunResult> {
  const { signal, report, dryRun } = context;
  const { hooks } = config.run;
  let problem: string | null = null;
  let isLeftOut = false;
  const result: Begun = { ended: [], notBegun: [], notKept: null };
  const run = async (hook: HookName): Promise<HookEnd | null> => {
    const onLine = (text: string): void => report({ kind: 'hook-line', vm: null, hook, text });
    const command = hooks[hook];
    if (command !== null && dryRun) onLine(`would be run: ${hookText(command)}`);
    if (dryRun) return null;
    const facts = {
      config: config.file,
      vm: null,
      target: null,
      result: hook === 'before' ? null : isLeftOut ? 'skipped' : resultOf(result, problem),
      why: problem,
    };
    const input = { vms: result.ended, notBegun: result.notBegun };
    const end = await runHook({ hook, hooks, facts, input, signal, onLine });
    if (hook !== 'before' && end?.kind === 'failed') report({ kind: 'hook-failed', hook, why: end.why });
    return end;
  };
  try {
    const before = await run('before');
    if (before?.kind === 'failed') {
      throw new QmpBackupError('failed', `the hook before of the run failed: ${before.why}`, {
        hint: 'No VM was begun. Exit code 75 would say that it is not the time.',
      });
    }
    if (before?.kind === 'skip') {
      isLeftOut = true;
      for (const { name: vm } of vms) {
        result.notBegun.push(vm);
        report({ kind: 'not-begun', vm, why: before.why });
      }
      return result;
    }
    await runEach(config, vms, context, result);
    signal.throwIfAborted();
    return result;
  } catch (error) {
    problem = messageOf(error);
    throw error;
  } finally {
    if (!isLeftOut && resultOf(result, problem) === 'failed') await run('on-error');
    await run('after');
  }
}

function resultOf({ ended, notBegun }: Pick<RunResult, 'ended' | 'notBegun'>, problem: string | null): VmResult {
  const results = ended.map(({ run }) => run.result);
  if (problem !== null || notBegun.length > 0 || results.includes('failed')) return 'failed';
  return results.includes('warnings') ? 'warnings' : 'ok';
}

type EachContext = RunContext & Pick<VmContext, 'isLate'>;

/** What has come of a run by now. */
interface Begun {
  readonly ended: VmHistory[];
  readonly notBegun: string[];
  notKept: string | null;
}

async function runEach(
  { file, run: settings }: Config,
  vms: readonly Vm[],
  context: EachContext,
  result: Begun,
): Promise<void> {
  const { signal, isLate, report } = context;
  const { ended, notBegun } = result;
  const known = await readHistory(file);
  if (known.lost !== null) report({ kind: 'lost', why: known.lost });
  let history = known.history;
  let kept = Promise.resolve();
  const keep = async (): Promise<void> => {
    try {
      await writeHistory(history);
      result.notKept = null;
    } catch (error) {
      result.notKept = messageOf(error);
      report({ kind: 'not-kept', why: result.notKept });
    }
  };
  const waiting = vms.map((vm) => ({ of: mountedDevice(targetOf(vm)) ?? '', vm }));
  await inTurns(waiting, { most: settings.parallel, mostOfOne: settings.maxPerTarget }, async ({ vm }) => {
    if (signal.aborted || isLate()) {
      notBegun.push(vm.name);
      report({ kind: 'not-begun', vm: vm.name, why: signal.aborted ? 'the run was ended' : 'it is too late' });
      return;
    }
    const latest = await runVm(vm, historyOf(history, vm.name), settings, { ...context, config: file });
    ended.push(latest);
    history = withVm(history, latest);
    if (context.dryRun) return;
    // One at a time, each with all that is known by then.
    kept = kept.then(keep);
    await kept;
  });
}

async function waitJitter(
  { jitterMs }: RunSettings,
  { random, report }: RunContext,
  signal: AbortSignal,
): Promise<void> {
  const ms = Math.round(jitterMs * random());
  if (ms === 0) return;
  report({ kind: 'waiting', ms });
  await sleep(ms, undefined, { signal }).catch(() => signal.throwIfAborted());
}

/** The next moment at which the clock shows that time, counted from the start of the run. */
function deadlineOf({ notAfter }: RunSettings, begun: Date): Date | null {
  if (notAfter === null) return null;
  const today = new Date(begun);
  today.setHours(Math.floor(notAfter / 60), notAfter % 60, 0, 0);
  const tomorrow = new Date(today);
  tomorrow.setDate(tomorrow.getDate() + 1);
  return [today, shownAgain(today)].find((moment) => moment > begun) ?? tomorrow;
}

const DAY_MS = 86_400_000;

/** When a clock that is put back shows that time once more; `moment` itself where it does not. */
function shownAgain(moment: Date): Date {
  const tomorrow = new Date(moment.getTime() + DAY_MS);
  const again = new Date(moment.getTime() + (tomorrow.getTimezoneOffset() - moment.getTimezoneOffset()) * 60_000);
  const isSame = again.getHours() === moment.getHours() && again.getMinutes() === moment.getMinutes();
  return isSame ? again : moment;
}

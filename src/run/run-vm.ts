import { setTimeout as sleep } from 'node:timers/promises';
import { hooksOf, ifOff, isPruned, type Power, targetOf, settingAt, type Vm } from '../config/vm.js';
import type { HookName } from '../config/hooks.js';
import type { RunSettings } from '../config/run-settings.js';
import { isDue } from '../core/due-checks.js';
import { daysIn } from '../core/time-span.js';
import type { StepRecord, VmHistory, VmResult } from './history.js';
import { type HookEnd, hookText, runHook } from './hooks.js';
import type { VmPower } from './power.js';
import type { RunVerb, StepEnd, StepVerb } from './step.js';
import { verbArguments } from './verb-arguments.js';

/** What the run of one VM takes of the outside. */
export interface VmContext {
  readonly signal: AbortSignal;
  readonly now: () => Date;
  readonly runVerb: RunVerb;
  readonly powerOf: (vm: Vm) => Promise<VmPower>;
  /** Absolute path of the configuration. */
  readonly config: string;
  /** Whether nothing more may be begun. */
  readonly isLate: () => boolean;
  readonly report: (event: VmEvent) => void;
  /** Says what would be done. */
  readonly dryRun: boolean;
}

export type VmEvent =
  /** `args`: the command line of the program. */
  | { readonly kind: 'begun'; readonly vm: string; readonly verb: StepVerb; readonly args: readonly string[] }
  | { readonly kind: 'progress'; readonly vm: string; readonly verb: StepVerb; readonly percent: number }
  | {
      readonly kind: 'again';
      readonly vm: string;
      readonly verb: StepVerb;
      readonly why: string;
      readonly inMs: number;
    }
  /** `vm`: null is the run as a whole. */
  | { readonly kind: 'hook-line'; readonly vm: string | null; readonly hook: HookName; readonly text: string }
  | { readonly kind: 'step'; readonly vm: string; readonly step: StepRecord };

/**
 * One VM, between its hooks: its backup, then prune, also after a backup that failed, so that a full target gets space again, then the checks that
 * are due. Nothing of it throws: what fails is in the record.
 */
export async function runVm(
  vm: Vm,
  before: VmHistory | undefined,
  settings: RunSettings,
  context: VmContext,
): Promise<VmHistory> {
  const run = new VmRun(vm, before, settings, context);
  if (await run.before()) {
    await run.backup();
    if (isPruned(vm) && !context.signal.aborted) await run.prune();
    await run.checks();
  }
  await run.after();
  return run.end();
}

/** What is tried again: somebody else has the VM or the target, or nobody answers there now. */
const MAY_PASS = ['locked', 'unreachable'];

class VmRun {
  readonly #vm: Vm;
  readonly #before: VmHistory | undefined;
  readonly #settings: RunSettings;
  readonly #context: VmContext;
  readonly #at: string;
  readonly #steps: StepRecord[] = [];
  #backup: VmHistory['backup'];
  #folder: string | null;
  #checks: VmHistory['checks'];
  /** Whether a check that is due has not been made, or not to its end. */
  #isUnchecked = false;

  constructor(vm: Vm, before: VmHistory | undefined, settings: RunSettings, context: VmContext) {
    this.#vm = vm;
    // Of another target it tells nothing.
    this.#before = before?.target === targetOf(vm) ? before : undefined;
    this.#settings = settings;
    this.#context = context;
    this.#at = context.now().toISOString();
    this.#backup = this.#before?.backup ?? null;
    this.#folder = this.#before?.folder ?? null;
    this.#checks = this.#before?.checks ?? { verify: null, boot: null };
  }

  async backup(): Promise<void> {
    const vm = this.#vm;
    const power = await this.#context.powerOf(vm);
    const isOff = power === 'off' || power === 'gone';
    if (isOff && ifOff(vm) !== 'offline') {
      const why = power === 'gone' ? 'there is no such domain' : 'it is off';
      this.#leaveOut('backup', ifOff(vm) === 'skip' ? 'skipped' : 'failed', why);
      return;
    }
    const read: Power = isOff ? 'off' : 'running';
    // Who looks what would be done does not wait for that.
    const retries = isOff || this.#context.dryRun ? 0 : this.#settings.retries;
    const { point, durationMs, at } = await this.#step('backup', verbArguments(vm, 'backup', { power: read }), retries);
    if (!point) return;
    const { target, ...made } = point;
    this.#backup = { at, durationMs, ...made };
    this.#folder = target;
  }

  /** Whether anything is to be done with this VM. */
  async before(): Promise<boolean> {
    const end = await this.#hook('before');
    return end === null || end.kind === 'done';
  }

  /** Whatever happened: what `before` did may have to be undone. */
  async after(): Promise<void> {
    if (worst(this.#steps) === 'failed') await this.#hook('on-error');
    await this.#hook('after');
  }

  async #hook(hook: HookName): Promise<HookEnd | null> {
    const { now, report, signal, dryRun, config } = this.#context;
    const { name: vm } = this.#vm;
    const hooks = hooksOf(this.#vm);
    const command = hooks[hook];
    const onLine = (text: string): void => report({ kind: 'hook-line', vm, hook, text });
    if (command === null) return null;
    if (dryRun) {
      onLine(`would be run: ${hookText(command)}`);
      return null;
    }
    const [at, begun] = [now().toISOString(), performance.now()];
    const isFirst = hook === 'before';
    const failed = this.#steps.filter(({ result }) => result === 'failed');
    const facts = {
      ...{ config, vm, target: targetOf(this.#vm), result: isFirst ? null : worst(this.#steps) },
      why: failed.length === 0 ? null : failed.map(({ verb, why }) => `${verb} failed: ${why}`).join('; '),
    };
    const end = await runHook({ hook, hooks, facts, input: { steps: this.#steps }, signal, onLine });
    if (end === null) return null;
    const why = end.kind === 'done' ? null : end.why;
    const result = { done: 'ok', skip: 'skipped', failed: isFirst ? 'failed' : 'warnings' } as const;
    const durationMs = performance.now() - begun;
    const told = { hint: null, warnings: [], summary: null, exitCode: end.exitCode };
    this.#add({ verb: `${hook}-hook`, at, durationMs, result: result[end.kind], why, ...told });
    return end;
  }

  async prune(): Promise<void> {
    await this.#step('prune', verbArguments(this.#vm, 'prune'));
  }

  async checks(): Promise<void> {
    const { verify, boot } = this.#checks;
    const within = settingAt(this.#vm, 'verify.read-data-within');
    const everyText = settingAt(this.#vm, 'verify.every');
    const every = daysIn(everyText) ?? (within === null ? null : 1);
    const bootEvery = daysIn(settingAt(this.#vm, 'verify.boot-every')) ?? null;
    if (every !== null && this.#isDue(verify, every)) {
      const share = within === null ? [] : [`--read-data=${within}/${everyText ?? '1d'}`];
      const step = await this.#step('verify', withoutBoot(verbArguments(this.#vm, 'verify', { more: share })));
      this.#checked('verify', step);
    }
    if (bootEvery !== null && this.#isDue(boot, bootEvery)) {
      const given = this.#vm.values.get('verify.qemu-arguments')?.given ?? [];
      const words = typeof given === 'string' ? [given] : Array.isArray(given) ? (given as readonly string[]) : [];
      const step = await this.#step('boot', this.#bootArguments(words));
      this.#checked('boot', step);
    }
  }

  /** One that has found something is made again by the next run: until it is passed, nobody can say that all is well again. */
  #checked(check: 'verify' | 'boot', { at, result, answered }: DoneStep): void {
    if (answered && result !== 'failed') this.#checks = { ...this.#checks, [check]: at };
    else this.#isUnchecked = true;
  }

  /** One target is started, which is that of a month with `--monthly`. */
  #bootArguments(words: readonly string[]): readonly string[] {
    const asked = verbArguments(this.#vm, 'verify', { more: ['--boot'], words });
    if (this.#folder === null || this.#vm.values.get('monthly')?.given !== true) return asked;
    const own = asked.filter((word) => !/^--(target|vm-name)=|^--monthly$/.test(word));
    return [...own.slice(0, 1), `--target=${this.#folder}`, ...own.slice(1)];
  }

  #isDue(last: string | null, everyDays: number): boolean {
    if (!isDue(last === null ? null : Date.parse(last), everyDays, this.#context.now().getTime())) return false;
    if (!this.#context.isLate() && !this.#context.signal.aborted) return true;
    this.#isUnchecked = true;
    return false;
  }

  async #step(verb: StepVerb, asked: readonly string[], retries = 0): Promise<DoneStep> {
    const { now, report, runVerb, signal, dryRun } = this.#context;
    const vm = this.#vm.name;
    const [at, begun] = [now().toISOString(), performance.now()];
    const args = dryRun && isDryRunOf(verb) ? [...asked, '--dry-run'] : asked;
    report({ kind: 'begun', vm, verb, args });
    if (dryRun && !isDryRunOf(verb)) {
      this.#leaveOut(verb, 'ok', null, 'it is due, and would be made');
      return { at, durationMs: 0, point: null, result: 'ok', answered: false };
    }
    const listener = { signal, progress: (percent: number) => report({ kind: 'progress', vm, verb, percent }) };
    let end = await runVerb(args, listener);
    for (let tried = 0; tried < retries && mayPass(end) && !signal.aborted; tried += 1) {
      const inMs = this.#settings.retryAfterMs;
      report({ kind: 'again', vm, verb, why: end.error?.message ?? '', inMs });
      await sleep(inMs, undefined, { signal }).catch(() => undefined);
      if (!signal.aborted) end = await runVerb(args, listener);
    }
    const durationMs = performance.now() - begun;
    const record: StepRecord = { verb, at, durationMs, exitCode: end.exitCode, ...judged(verb, end) };
    this.#add(record);
    return { at, durationMs, point: end.point, result: record.result, answered: end.error === null };
  }

  #leaveOut(verb: StepVerb, result: VmResult, why: string | null, summary: string | null = null): void {
    const at = this.#context.now().toISOString();
    this.#add({ verb, at, durationMs: 0, exitCode: 0, result, why, hint: null, warnings: [], summary });
  }

  #add(step: StepRecord): void {
    this.#steps.push(step);
    this.#context.report({ kind: 'step', vm: this.#vm.name, step });
  }

  end(): VmHistory {
    const endedAt = this.#context.now().toISOString();
    const result = worst(this.#steps);
    const since = this.#before?.failingSince ?? null;
    return {
      ...{ vm: this.#vm.name, target: targetOf(this.#vm), folder: this.#folder },
      run: { at: this.#at, endedAt, result, steps: this.#steps },
      backup: this.#backup,
      failingSince:
        result === 'failed' ? (since ?? this.#at) : result === 'skipped' || this.#isUnchecked ? since : null,
      checks: this.#checks,
    };
  }
}

/** `verify` refuses them without `--boot`, which is a step of its own. */
function withoutBoot(args: readonly string[]): readonly string[] {
  return args.filter((word) => !/^--(expect|evidence|agent)\b/.test(word));
}

interface DoneStep {
  readonly at: string;
  readonly durationMs: number;
  readonly point: StepEnd['point'];
  readonly result: VmResult;
  readonly answered: boolean;
}

function isDryRunOf(verb: StepVerb): boolean {
  return verb === 'backup' || verb === 'prune';
}

function mayPass({ error }: StepEnd): boolean {
  return error !== null && MAY_PASS.includes(error.code);
}

type Judged = Pick<StepRecord, 'result' | 'why' | 'hint' | 'warnings' | 'summary'>;

function judged(verb: StepVerb, { error, findings, warnings, summary }: StepEnd): Judged {
  const told = { warnings, summary, hint: error?.hint ?? null };
  if (error) return { ...told, result: resultOf(verb, error.code), why: error.message };
  // Space that is missing after prune is no fault of the points that are there.
  if (findings.length > 0) {
    return { ...told, result: verb === 'prune' ? 'warnings' : 'failed', why: findings.join('; ') };
  }
  return { ...told, result: warnings.length > 0 ? 'warnings' : 'ok', why: null };
}

function resultOf(verb: StepVerb, code: NonNullable<StepEnd['error']>['code']): VmResult {
  if (verb === 'backup') return 'failed';
  // Before the first point there is nothing to be looked after, and its backup has failed.
  if (code === 'no-catalog') return 'skipped';
  // Somebody has a point open, or is at work there.
  return code === 'locked' ? 'warnings' : 'failed';
}

const SEVERITY: readonly VmResult[] = ['failed', 'warnings', 'skipped', 'ok'];

/** Where one of these is left out, so is the VM. */
const OF_ALL: readonly StepRecord['verb'][] = ['backup', 'before-hook'];

/** A VM that was skipped is told as such, although it was pruned. */
function worst(steps: readonly StepRecord[]): VmResult {
  const isLeftOut = steps.some(({ verb, result }) => OF_ALL.includes(verb) && result === 'skipped');
  const found = SEVERITY.find((result) => steps.some((step) => step.result === result)) ?? 'ok';
  return found === 'skipped' && !isLeftOut ? 'ok' : found;
}

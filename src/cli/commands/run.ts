import type { Command } from 'commander';
import { vmsOf } from '../../config/discover.js';
import type { Config } from '../../config/config.js';
import { loadConfig } from '../../config/config-file.js';
import { chosenVms } from '../../config/chosen-vms.js';
import { RUN_RULES } from '../../config/run-settings.js';
import { refuseWrongVms } from '../../config/vm.js';
import { asShellWord } from '../../core/shell-word.js';
import { warning } from '../../core/warning.js';
import type { Notification } from '../../notify/notify.js';
import { powerOf } from '../../run/power.js';
import { type RunEvent, runAll, type RunResult } from '../../run/run.js';
import type { RunVerb } from '../../run/step.js';
import type { StepRecord } from '../../run/history.js';
import { runDocument } from '../documents/run.js';
import { optionOf } from '../options.js';
import type { Register } from '../register.js';
import { createRunProgress, type RunProgress } from '../render/run-progress.js';
import { renderRun } from '../render/run.js';
import { createRunNotices } from '../run-notices.js';
import { createRunVerb } from '../run-verb.js';
import type { CommandContext } from '../wiring.js';

/** Of every command that reads the configuration. */
export const CONFIG_OPTION = [
  '--config <file>',
  'the configuration (default: that of the user, $XDG_CONFIG_HOME/qmpbackup/config.yaml, or /etc/qmpbackup/config.yaml)',
] as const;

interface Flags {
  readonly config?: string;
  readonly parallel?: number;
  readonly notAfter?: number;
  readonly dryRun?: boolean;
}

export const runCommand: Register = (program, run) => {
  const command = program
    .command('run')
    .argument('[vm...]', 'only these VMs, by their names in the configuration')
    .description('back up, prune and check all VMs of a configuration: what cron or a timer starts')
    .option(...CONFIG_OPTION)
    .addOption(
      optionOf(RUN_RULES.parallel, 'so many VMs at a time (default: as configured, or 1)', { value: '<n>' }).default(
        undefined,
      ),
    )
    .addOption(
      optionOf(RUN_RULES['not-after'], 'what has not begun at this time of the day is not begun', { value: '<hh:mm>' }),
    )
    .option('--dry-run', 'say everything that would be done, with the commands that would do it')
    .addHelpText('after', EXAMPLES);
  command.action((vms: readonly string[], flags: Flags, self: Command) =>
    run<Flags>((given, context) => runRun(vms, given, context))(flags, self),
  );
};

const EXAMPLES = `
Of each VM: its backup, then prune (also where the backup failed, so that a full target gets space again), then the checks that
are due. One that fails stops no other. Ends with 0 where all went well, 3 where some VMs failed or were not begun, or where it cannot be
remembered how they went, 1 where all failed, 11 where a run of the same configuration is at work.

Examples:
  qmpbackup run
  qmpbackup run --config /etc/qmpbackup/config.yaml --dry-run
  qmpbackup run web1 db --parallel 2`;

async function runRun(names: readonly string[], flags: Flags, context: CommandContext): Promise<void> {
  const dryRun = flags.dryRun ?? false;
  const loaded = await loadConfig(flags.config);
  const run = {
    ...loaded.run,
    ...(flags.parallel === undefined ? {} : { parallel: flags.parallel }),
    ...(flags.notAfter === undefined ? {} : { notAfter: flags.notAfter }),
  };
  const config = { ...loaded, run };
  if (dryRun) return answer(await runVms(config, names, { context, dryRun, onStart: () => undefined }), [], context);
  const notices = createRunNotices(config, names.length === 0, context);
  const onStart = (): void => notices.started();
  let ran: Ran;
  try {
    ran = await runVms(config, names, { context, dryRun, onStart });
  } catch (error) {
    await notices.failed(error);
    throw error;
  }
  answer(ran, await notices.ended(ran), context);
}

export interface Ran extends RunResult {
  readonly config: Config;
  readonly dryRun: boolean;
  /** Names of all that there are. */
  readonly vms: readonly string[];
  /** Why there may be more. */
  readonly failures: readonly string[];
}

async function runVms(
  config: Config,
  names: readonly string[],
  { context, dryRun, onStart }: Telling & { readonly context: CommandContext },
): Promise<Ran> {
  const { signal, now, log } = context;
  const { vms, failures } = await vmsOf(config);
  refuseWrongVms(config, vms);
  for (const why of failures) context.warn(warning('not-discovered', why));
  const progress = createRunProgress(log);
  const runVerb = createRunVerb();
  const result = await runAll(config, chosenVms(vms, names, failures), {
    ...{ signal, now, dryRun, powerOf, random: Math.random, runVerb },
    report: (event) => tell(event, context, { progress, dryRun, onStart }),
  });
  progress.end();
  await makeReport(config, runVerb, context, dryRun);
  return { ...result, config, dryRun, failures, vms: vms.map(({ name }) => name) };
}

function answer(ran: Ran, notifications: readonly Notification[], context: CommandContext): void {
  const { ended, notBegun, notKept, failures, config, dryRun } = ran;
  context.done(
    (warnings) => runDocument(ran, { config: config.file, dryRun, notifications }, warnings),
    () => renderRun(ran),
    'what is told of each VM is done',
  );
  const failed = ended.filter((each) => each.run.result === 'failed').length;
  if (failed > 0 && failed === ended.length && notBegun.length === 0) context.endWith('failed');
  else if (failed + notBegun.length + failures.length > 0 || notKept !== null) context.endWith('partial');
}

/** In a process of its own, too: what it reads may not answer, and a report that fails is no backup that did. */
async function makeReport(
  { file, report }: Pick<Config, 'file' | 'report'>,
  runVerb: RunVerb,
  { log, signal, warn }: CommandContext,
  dryRun: boolean,
): Promise<void> {
  if (report === null) return;
  const args = ['report', `--config=${file}`, `--output=${report.output}`];
  if (dryRun) {
    log.write('info', ['qmpbackup', ...args].map(asShellWord).join(' '));
    return;
  }
  const { error, summary } = await runVerb(args, { signal, progress: () => undefined });
  if (error === null) log.write('info', `report: ${summary ?? 'written'}`);
  else warn(warning('report-failed', `report: ${error.message}${error.hint === null ? '' : ` (${error.hint})`}`));
}

interface Telling {
  readonly dryRun: boolean;
  readonly onStart: () => void;
}

function tell(
  event: RunEvent,
  context: CommandContext,
  { progress, dryRun, onStart }: Telling & { readonly progress: RunProgress },
): void {
  const { log } = context;
  switch (event.kind) {
    case 'started':
      onStart();
      return;
    case 'waiting':
      log.write('info', `beginning in ${Math.round(event.ms / 1000)} s`);
      return;
    case 'not-begun':
      context.warn(warning('vm-not-begun', `${event.vm}: not begun, ${event.why}`));
      return;
    case 'lost':
      context.warn(warning('history-lost', `how earlier runs went is not known: ${event.why}`));
      return;
    case 'not-kept':
      context.warn(warning('history-lost', `what came of this run is not remembered: ${event.why}`));
      return;
    case 'hook-failed':
      context.warn(warning('hook-failed', `the hook ${event.hook} of the run failed: ${event.why}`));
      return;
    case 'hook-line':
      log.write('info', `${event.vm === null ? '' : `${event.vm}: `}${event.hook}-hook: ${event.text}`);
      return;
    case 'begun':
      progress.show(event.vm, event.verb, null);
      // What a run does is told when it is done; what it would do, is this.
      log.write(
        dryRun || context.globals.verbose ? 'info' : 'debug',
        `${event.vm}: ${['qmpbackup', ...event.args].map(asShellWord).join(' ')}`,
      );
      return;
    case 'progress':
      progress.show(event.vm, event.verb, event.percent);
      return;
    case 'again':
      log.write(
        'info',
        `${event.vm}: ${event.verb} is tried again in ${Math.round(event.inMs / 1000)} s: ${event.why}`,
      );
      return;
    case 'step':
      progress.gone(event.vm);
      tellStep(event.vm, event.step, context);
      return;
  }
}

function tellStep(vm: string, step: StepRecord, context: CommandContext): void {
  const { verb, result, why, hint, warnings, summary } = step;
  for (const text of warnings) context.warn(warning('vm-warned', `${vm}: ${verb}: ${text}`));
  const words = [summary, why].filter((each) => each !== null).join('; ') || 'done';
  switch (result) {
    case 'failed':
      context.warn(warning('vm-failed', `${vm}: ${verb} failed: ${why}${hint === null ? '' : ` (${hint})`}`));
      return;
    case 'skipped':
      context.log.write('info', `${vm}: ${verb} left out: ${words}`);
      return;
    case 'warnings':
      if (why === null) context.log.write('info', `${vm}: ${verb}: ${words}`);
      else context.warn(warning('vm-warned', `${vm}: ${verb}: ${why}`));
      return;
    case 'ok':
      context.log.write('info', `${vm}: ${verb}: ${words}`);
  }
}

import { resolve } from 'node:path';
import { CommanderError } from 'commander';
import { loadConfig } from '../../config/config-file.js';
import { vmsOf } from '../../config/discover.js';
import { refuseWrongVms, targetOf } from '../../config/vm.js';
import { type OptionRules, words } from '../../core/option-rules.js';
import { timeSpan } from '../../core/time-span.js';
import { type Warning, warning } from '../../core/warning.js';
import { messageOf, QmpBackupError } from '../../errors.js';
import { replaceFile } from '../../host/durable.js';
import { isLocal } from '../../host/mounts.js';
import { pluginLine, STATUS_EXIT, unknownLine } from '../../report/plugin-line.js';
import { prometheusText } from '../../report/prometheus.js';
import { type Status, statusOfConfig, statusOfTargets } from '../../report/status.js';
import { readHistory } from '../../run/history.js';
import { hasRunAsChild } from '../child-run.js';
import { statusDocument } from '../documents/status.js';
import { optionOf } from '../options.js';
import { putAnswer } from '../output.js';
import type { Register } from '../register.js';
import { renderStatus } from '../render/status.js';
import type { CommandContext } from '../wiring.js';
import { CONFIG_OPTION } from './run.js';

interface Flags {
  readonly config?: string;
  readonly target?: readonly string[];
  readonly maxAge?: number;
  readonly plugin?: boolean;
  readonly prometheus?: string;
}

const STATUS_OPTIONS = {
  target: words('--target'),
  maxAge: timeSpan('--max-age'),
} satisfies OptionRules;

export const statusCommand: Register = (program, run) => {
  program
    .command('status')
    .description('say whether all is well: of each VM the newest good point and its age, and what failed and why')
    .option(...CONFIG_OPTION)
    .addOption(
      optionOf(
        STATUS_OPTIONS.target,
        'instead of a configuration: folder of the backups, or the one above several; repeatable',
        {
          short: '-t',
          value: '<dir>',
        },
      ),
    )
    .addOption(
      optionOf(
        STATUS_OPTIONS.maxAge,
        'how old the newest good point may be, such as 26h, where the configuration does not say it',
        {
          value: '<time>',
        },
      ),
    )
    .option('--plugin', 'print one line with figures, as monitoring plugins do')
    .option('--prometheus <file>', 'write metrics for the textfile collector of Prometheus; - for stdout')
    .exitOverride((error) => {
      throw error.exitCode === 0 ? error : new CommanderError(STATUS_EXIT.unknown, error.code, error.message);
    })
    .addHelpText('after', EXAMPLES)
    .action(run<Flags>(runStatus));
};

const EXAMPLES = `
Exit codes of its own, as monitoring plugins have them: 0 ok, 1 warning (the newest good point is too old, the last run warned, points are
damaged), 2 critical (there is no good point, the last run failed, a VM is gone), 3 unknown (bad usage or configuration).
Without --max-age, and without max-age in the configuration, age is not judged.

Examples:
  qmpbackup status
  qmpbackup status --plugin --max-age 26h
  qmpbackup status --target /backup --max-age 26h
  qmpbackup status --prometheus /var/lib/prometheus/node-exporter/qmpbackup.prom`;

async function runStatus(flags: Flags, context: CommandContext): Promise<void> {
  const { plugin = false, prometheus } = flags;
  try {
    refuseContradictions(flags, context);
    const asked = await whatIsAsked(flags);
    const apart = asked.targets.find((target) => !isLocal(target));
    if (apart !== undefined && (await hasRunAsChild(apart))) return;
    asked.warnings.forEach(context.warn);
    const now = context.now();
    const status = await asked.read(now);
    if (prometheus === '-') putAnswer(prometheusText(status, now));
    else if (prometheus !== undefined)
      await replaceFile(resolve(prometheus), prometheusText(status, now), { mode: 0o644 });
    if (prometheus !== '-') {
      context.answer(
        (warnings) => statusDocument(status, { config: asked.config, at: now }, warnings),
        () => (plugin ? pluginLine(status) : renderStatus(status)),
      );
    }
    context.exitWith(STATUS_EXIT[status.level]);
  } catch (error) {
    if (error instanceof QmpBackupError && error.code === 'interrupted') throw error;
    context.exitWith(STATUS_EXIT.unknown);
    if (plugin) putAnswer(`${unknownLine(messageOf(error))}\n`);
    throw error;
  }
}

function refuseContradictions({ target, config, plugin, prometheus }: Flags, { globals }: CommandContext): void {
  const refuse = (one: string, other: string): never => {
    throw new QmpBackupError('usage', `${one} and ${other} exclude each other`, { hint: 'Give one of them.' });
  };
  if (config !== undefined && target !== undefined) refuse('--config', '--target');
  if (plugin && globals.json) refuse('--plugin', '--json');
  if (prometheus === '-' && (plugin || globals.json)) refuse('--prometheus -', plugin ? '--plugin' : '--json');
}

interface Asked {
  /** Absolute path; null where targets were named. */
  readonly config: string | null;
  readonly targets: readonly string[];
  readonly warnings: readonly Warning[];
  readonly read: (now: Date) => Promise<Status>;
}

async function whatIsAsked({ config: named, target, maxAge }: Flags): Promise<Asked> {
  const maxAgeMs = maxAge === undefined ? null : maxAge * DAY_MS;
  if (target !== undefined) {
    const targets = target.map((each) => resolve(each));
    return { config: null, targets, warnings: [], read: (now) => statusOfTargets(targets, { now, maxAgeMs }) };
  }
  const config = await loadConfig(named);
  const { vms, failures } = await vmsOf(config);
  refuseWrongVms(config, vms);
  const { history, lost } = await readHistory(config.file);
  const warnings = [
    ...failures.map((why) => warning('not-discovered', why)),
    ...(lost === null ? [] : [warning('history-lost', `how earlier runs went is not known: ${lost}`)]),
  ];
  const targets = [...vms.map(targetOf), ...history.vms.map((each) => each.target)];
  return {
    config: config.file,
    targets,
    warnings,
    read: (now) => statusOfConfig(vms, history, { now, maxAgeMs }),
  };
}

const DAY_MS = 86_400_000;

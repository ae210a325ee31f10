import { resolve } from 'node:path';
import { type Command, CommanderError } from 'commander';
import { hasNoVm } from '../../config/chosen-vms.js';
import { messageOf, QmpBackupError } from '../../errors.js';
import { replaceFile } from '../../host/durable.js';
import { isLocal } from '../../host/mounts.js';
import { pluginLine, STATUS_EXIT, unknownLine } from '../../report/plugin-line.js';
import { prometheusText } from '../../report/prometheus.js';
import { statusOf } from '../../report/status.js';
import { type AskedVmsFlags, askedVms, MAX_AGE_OPTION, TARGETS_OPTION } from '../asked-vms.js';
import { hasRunAsChild } from '../child-run.js';
import { FailedWith } from '../exit-codes.js';
import { statusDocument } from '../documents/status.js';
import { putAnswer } from '../output.js';
import type { Register } from '../register.js';
import { renderStatus } from '../render/status.js';
import type { CommandContext } from '../wiring.js';
import { CONFIG_OPTION } from './run.js';

interface Flags extends AskedVmsFlags {
  readonly plugin?: boolean;
  readonly prometheus?: string;
}

export const statusCommand: Register = (program, run) => {
  program
    .command('status')
    .description('say whether all is well: of each VM the newest good point and its age, and what failed and why')
    .option(...CONFIG_OPTION)
    .addOption(TARGETS_OPTION)
    .addOption(MAX_AGE_OPTION)
    .option('--plugin', 'print one line with figures, as monitoring plugins do')
    .option('--prometheus <file>', 'write metrics for the textfile collector of Prometheus; - for stdout')
    .exitOverride((error) => {
      if (error.exitCode === 0) throw error;
      // Options that are wrong may not have been read by now.
      if (process.argv.includes('--plugin')) putUnknown(error.message.replace(/^error: /, ''));
      throw new CommanderError(STATUS_EXIT.unknown, error.code, error.message);
    })
    .addHelpText('after', EXAMPLES)
    .action(async (flags: Flags, command: Command) => {
      try {
        await run<Flags>(runStatus)(flags, command);
      } catch (error) {
        if (error instanceof QmpBackupError && error.code === 'interrupted') throw error;
        if (flags.plugin) putUnknown(messageOf(error));
        throw new FailedWith(STATUS_EXIT.unknown, error);
      }
    });
};

function putUnknown(why: string): void {
  putAnswer(`${unknownLine(why)}\n`);
}

const EXAMPLES = `
Exit codes of its own, as monitoring plugins have them: 0 ok, 1 warning (the newest good point is too old, the last run warned, points are
damaged, what was verified or run before cannot be read), 2 critical (there is no good point, the last run failed, a VM is gone), 3 unknown
(bad usage or configuration).
Without --max-age, and without max-age in the configuration, age is not judged.

Examples:
  qmpbackup status
  qmpbackup status --plugin --max-age 26h
  qmpbackup status --target /backup --max-age 26h
  qmpbackup status --prometheus /var/lib/prometheus/node-exporter/qmpbackup.prom`;

async function runStatus(flags: Flags, context: CommandContext): Promise<void> {
  const { plugin = false, prometheus } = flags;
  refuseContradictions(flags, context);
  const asked = await askedVms(flags);
  const apart = asked.targets.find((target) => !isLocal(target));
  if (apart !== undefined && (await hasRunAsChild(apart))) return;
  asked.warnings.forEach(context.warn);
  const now = context.now();
  const status = await statusOf(await asked.sources(now), asked.unknown.length === 0);
  // A file that was emptied by mistake says of nothing that it is well.
  if (status.vms.length === 0 && asked.failures.length === 0) throw hasNoVm();
  if (prometheus === '-') putAnswer(prometheusText(status, now));
  else if (prometheus !== undefined)
    await replaceFile(resolve(prometheus), prometheusText(status, now), { mode: 0o644, isContended: true });
  if (prometheus !== '-') {
    context.answer(
      (warnings) => statusDocument(status, { config: asked.config, at: now }, warnings),
      () => (plugin ? pluginLine(status, asked.unknown) : renderStatus(status)),
    );
  }
  context.exitWith(STATUS_EXIT[status.level]);
}

function refuseContradictions({ plugin, prometheus }: Flags, { globals }: CommandContext): void {
  const refuse = (one: string, other: string): never => {
    throw new QmpBackupError('usage', `${one} and ${other} exclude each other`, { hint: 'Give one of them.' });
  };
  if (plugin && globals.json) refuse('--plugin', '--json');
  if (prometheus === '-' && (plugin || globals.json)) refuse('--prometheus -', plugin ? '--plugin' : '--json');
}

import type { Command } from 'commander';
import { loadConfig } from '../../config/config-file.js';
import type { Config } from '../../config/config.js';
import type { Notifier } from '../../config/notifiers.js';
import { bareSecrets } from '../../config/bare-secrets.js';
import { nearestName } from '../../core/nearest-name.js';
import { warning } from '../../core/warning.js';
import { QmpBackupError } from '../../errors.js';
import { NOTIFY_TIMES, notifyTest } from '../../notify/notify.js';
import { notifyTestDocument } from '../documents/notify.js';
import type { Register } from '../register.js';
import { renderNotifications } from '../render/notify.js';
import type { CommandContext } from '../wiring.js';
import { CONFIG_OPTION } from './run.js';

interface Flags {
  readonly config?: string;
}

export const notifyCommand: Register = (program, run) => {
  program
    .command('notify')
    .description('who hears of a run that failed: send a test')
    .addHelpText('after', EXAMPLES)
    .command('test')
    .argument('[name...]', 'only these notifiers, by their names in the configuration')
    .description('send a test by each notifier of the configuration, and say what came of it')
    .option(...CONFIG_OPTION)
    .addHelpText('after', EXAMPLES)
    .action((names: readonly string[], flags: Flags, command: Command) =>
      run<Flags>((given, context) => runTest(names, given, context))(flags, command),
    );
};

const EXAMPLES = `
A dead-man switch is told of a success. What a run tells is not changed by it. Ends with 0 where all were told, 3 where some could
not be, 1 where none could.

Examples:
  qmpbackup notify test
  qmpbackup notify test ops --config ./config.yaml`;

async function runTest(names: readonly string[], { config: named }: Flags, context: CommandContext): Promise<void> {
  const { now, signal, warn } = context;
  const config = await loadConfig(named);
  const bare = await bareSecrets(config);
  if (bare !== null) warn(warning('bare-secret', bare));
  const told = await notifyTest(config, chosenNotifiers(config, names), {
    ...{ now, signal, times: NOTIFY_TIMES },
    warn: (text) => warn(warning('not-notified', text)),
  });
  context.done(
    (warnings) => notifyTestDocument(config.file, told, warnings),
    () => renderNotifications(told),
    'what is told of each notifier was tried',
  );
  const failed = told.filter((each) => each.failed !== null).length;
  if (failed > 0) context.endWith(failed === told.length ? 'failed' : 'partial');
}

function chosenNotifiers({ file, notify }: Config, names: readonly string[]): readonly Notifier[] {
  if (notify.length === 0) {
    throw new QmpBackupError('usage', `${file} has no notifier`, { hint: 'Give it some: qmpbackup config example' });
  }
  const known = notify.map(({ name }) => name);
  for (const name of names) {
    if (known.includes(name)) continue;
    const near = nearestName(name, known);
    throw new QmpBackupError('usage', `the configuration has no notifier ${name}`, {
      hint: near === undefined ? `There are: ${known.join(', ')}` : `Is ${near} meant?`,
    });
  }
  return names.length === 0 ? notify : notify.filter(({ name }) => names.includes(name));
}

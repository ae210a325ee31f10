import type { Command } from 'commander';
import { loadConfig } from '../../config/config-file.js';
import { chosenVms } from '../../config/chosen-vms.js';
import { vmsOf } from '../../config/discover.js';
import { bareSecrets } from '../../config/bare-secrets.js';
import { shownSettings } from '../../config/shown-settings.js';
import { refuseWrongVms } from '../../config/vm.js';
import { warning } from '../../core/warning.js';
import { configExample } from '../config-example.js';
import { configCheckDocument, configExampleDocument, configShowDocument } from '../documents/config.js';
import type { Register } from '../register.js';
import { renderChecked, renderShown } from '../render/config.js';
import type { CommandContext } from '../wiring.js';
import { CONFIG_OPTION } from './run.js';

interface Flags {
  readonly config?: string;
}

export const configCommand: Register = (program, run) => {
  const config = program
    .command('config')
    .description('the configuration of many VMs: check it, show what is in force, print an example')
    .addHelpText('after', EXAMPLES);
  config
    .command('check')
    .description('say all that is wrong with the configuration, with line and key, and which VMs it names and finds')
    .option(...CONFIG_OPTION)
    .addHelpText('after', EXAMPLES)
    .action(run<Flags>(runCheck));
  config
    .command('show')
    .argument('<vm>', 'name of the VM in the configuration')
    .description('show all values in force for a VM, and where each comes from')
    .option(...CONFIG_OPTION)
    .addHelpText('after', EXAMPLES)
    .action((vm: string, flags: Flags, command: Command) =>
      run<Flags>((given, context) => runShow(vm, given, context))(flags, command),
    );
  config
    .command('example')
    .description('print a configuration with every key, to begin with')
    .addHelpText('after', EXAMPLES)
    .action(
      run((_, context) => {
        const text = configExample(program);
        context.answer(
          (warnings) => configExampleDocument(text, warnings),
          () => text.trimEnd(),
        );
        return Promise.resolve();
      }),
    );
};

const EXAMPLES = `
Examples:
  qmpbackup config example >/etc/qmpbackup/config.yaml
  qmpbackup config check
  qmpbackup config show web1
  qmpbackup config check --config ./config.yaml --json`;

async function runCheck({ config: named }: Flags, context: CommandContext): Promise<void> {
  const config = await loadConfig(named);
  const { vms, failures } = await vmsOf(config);
  refuseWrongVms(config, vms);
  for (const why of failures) context.warn(warning('not-discovered', why));
  if (vms.length === 0) context.warn(warning('no-vms', `${config.file} names no VM, and none is found by it now`));
  const bare = await bareSecrets(config);
  if (bare !== null) context.warn(warning('bare-secret', bare));
  context.answer(
    (warnings) => configCheckDocument(config, vms, warnings),
    () => renderChecked(config, vms),
  );
}

async function runShow(name: string, { config: named }: Flags, context: CommandContext): Promise<void> {
  const config = await loadConfig(named);
  const { vms, failures } = await vmsOf(config);
  for (const why of failures) context.warn(warning('not-discovered', why));
  for (const vm of chosenVms(vms, [name], failures)) {
    const settings = shownSettings(vm);
    context.answer(
      (warnings) => configShowDocument(config, vm, settings, warnings),
      () => renderShown(config, vm, settings),
    );
  }
}

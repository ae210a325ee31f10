import type { Config } from '../../config/config.js';
import { type Notifier, secretsOf } from '../../config/notifiers.js';
import { secretOrigin } from '../../config/secret.js';
import type { ShownSetting } from '../../config/shown-settings.js';
import { targetOf, settingAt, type Vm } from '../../config/vm.js';
import { table } from './table.js';

/** Which VMs a configuration names and finds, and who hears of them. */
export function renderChecked({ file, notify }: Config, vms: readonly Vm[]): string {
  const rows = vms.map((vm) => {
    const [domain, socket] = [settingAt(vm, 'domain'), settingAt(vm, 'socket')];
    const reached = domain === null ? (socket ?? 'off') : `domain ${domain}`;
    const kind = [...vm.values.values()].some(({ from }) => from.kind === 'discover') ? 'found' : 'named';
    return [vm.name, reached, targetOf(vm), kind, `line ${vm.place.line}`];
  });
  const heading = `${file} is right: ${vms.length === 1 ? '1 VM' : `${vms.length} VMs`}`;
  return [
    heading,
    ...(vms.length === 0 ? [] : [table([['VM', 'REACHED', 'TARGET', 'BY', ''], ...rows])]),
    ...(notify.length === 0 ? [] : [table([['NOTIFIER', 'BY', 'ON', 'SECRETS', ''], ...notify.map(notifierRow)])]),
  ].join('\n');
}

function notifierRow(notifier: Notifier): readonly string[] {
  const secrets = secretsOf(notifier).map(({ key, secret }) => `${key}: ${secretOrigin(secret)}`);
  const on = notifier.kind === 'ping' ? 'each run' : notifier.rules.on.join(', ');
  return [notifier.name, notifier.kind, on, secrets.join(', ') || '-', `line ${notifier.place.line}`];
}

export function renderShown({ file }: Config, { name }: Vm, settings: readonly ShownSetting[]): string {
  const rows = settings.map(({ key, value, from }) => [
    key,
    textOf(value),
    from ? `${from.kind}, line ${from.place.line}` : 'built in',
  ]);
  return [`${name} in ${file}`, table([['KEY', 'VALUE', 'FROM'], ...rows])].join('\n');
}

function textOf(value: ShownSetting['value']): string {
  if (value === null) return '-';
  return typeof value === 'object' ? JSON.stringify(value) : String(value);
}

import type { Config } from '../../config/config.js';
import type { ShownSetting } from '../../config/shown-settings.js';
import { targetOf, settingAt, type Vm } from '../../config/vm.js';
import { table } from './table.js';

/** Which VMs a configuration names and finds. */
export function renderChecked({ file }: Config, vms: readonly Vm[]): string {
  const rows = vms.map((vm) => {
    const [domain, socket] = [settingAt(vm, 'domain'), settingAt(vm, 'socket')];
    const reached = domain === null ? (socket ?? 'off') : `domain ${domain}`;
    const kind = [...vm.values.values()].some(({ from }) => from.kind === 'discover') ? 'found' : 'named';
    return [vm.name, reached, targetOf(vm), kind, `line ${vm.place.line}`];
  });
  const heading = `${file} is right: ${vms.length === 1 ? '1 VM' : `${vms.length} VMs`}`;
  return vms.length === 0 ? heading : [heading, table([['VM', 'REACHED', 'TARGET', 'BY', ''], ...rows])].join('\n');
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

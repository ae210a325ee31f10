import { nearestName } from '../core/nearest-name.js';
import { QmpBackupError } from '../errors.js';
import type { Vm } from './vm.js';

/** Those of `vms` that are named, in their order; all where none is. @throws QmpBackupError `usage` */
export function chosenVms(vms: readonly Vm[], names: readonly string[]): readonly Vm[] {
  if (vms.length === 0) {
    throw new QmpBackupError('usage', 'the configuration has no VM', {
      hint: 'Name them below vms, or have them found by discover.',
    });
  }
  for (const name of names) {
    if (vms.some((vm) => vm.name === name)) continue;
    const near = nearestName(
      name,
      vms.map((vm) => vm.name),
    );
    throw new QmpBackupError('usage', `the configuration has no VM ${name}`, {
      hint: near === undefined ? `There are: ${vms.map((vm) => vm.name).join(', ')}` : `Is ${near} meant?`,
    });
  }
  return names.length === 0 ? vms : vms.filter(({ name }) => names.includes(name));
}

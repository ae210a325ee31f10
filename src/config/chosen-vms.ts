import { nearestName } from '../core/nearest-name.js';
import { QmpBackupError } from '../errors.js';
import type { Vm } from './vm.js';

/**
 * Those of `vms` that are named, in their order; all where none is. `failures`: why there may be more of them.
 *
 * @throws QmpBackupError `usage`, or `failed` where it cannot be told
 */
export function chosenVms(
  vms: readonly Vm[],
  names: readonly string[],
  failures: readonly string[] = [],
): readonly Vm[] {
  const unknown = names.filter((name) => !vms.some((vm) => vm.name === name));
  if (failures.length > 0 && (vms.length === 0 || unknown.length > 0)) {
    throw new QmpBackupError(
      'failed',
      `not all VMs could be found (${unknown.join(', ') || 'there is none'}): ${failures.join('; ')}`,
      {
        hint: 'Mend what could not be asked, or name the VMs below vms.',
      },
    );
  }
  if (vms.length === 0) throw hasNoVm();
  for (const name of unknown) {
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

export function hasNoVm(): QmpBackupError {
  return new QmpBackupError('usage', 'the configuration has no VM', {
    hint: 'Name them below vms, or have them found by discover.',
  });
}

import { createHash } from 'node:crypto';
import { folderName } from '../../core/names.js';

/** Bytes; a longer name is cut. */
const LONGEST = 120;

/** No name of a VM has it in that of its page, so what stands behind it was put there by us. */
const APART = '~';

/**
 * Where the page of a VM is, without `.html`. It follows from the VM alone, so that its address is the same in every report, whichever
 * others are in it and whatever is read first. `target`: where it is known by that, too, as in a report of targets, of which two may be of
 * VMs with one name; null where a configuration has the name for it alone.
 */
export function pageName(vm: string, target: string | null): string {
  const shown = folderName(vm, LONGEST).replace(/[ ~]/g, '_');
  if (target === null && shown === vm) return `vm-${shown}`;
  const whole = JSON.stringify([vm, target]);
  return `vm-${shown}${APART}${createHash('sha256').update(whole).digest('hex').slice(0, 12)}`;
}

import type { AskedVm } from '../../backends/address.js';
import { AGENT_OPTIONS, agentOf, LOCK_OPTIONS, NAMED_VM_OPTIONS, VM_OPTIONS, vmOf } from '../../backends/vm-options.js';
import { type OptionRules, type RequestOf, word, valuesOf } from '../../core/option-rules.js';
import { QmpBackupError } from '../../errors.js';
import type { Endpoint } from '../../qmp/endpoint.js';

export const DOCTOR_OPTIONS = {
  ...VM_OPTIONS,
  ...AGENT_OPTIONS,
  ...NAMED_VM_OPTIONS,
  ...LOCK_OPTIONS,
  /** Folder of the backups, also one that does not exist yet. */
  target: word('--target'),
  /** Where the scratch images of a domain would lie; without, beside its images. */
  fleeceDir: word('--fleece-dir'),
} satisfies OptionRules;

export type DoctorRequest = RequestOf<typeof DOCTOR_OPTIONS>;

export interface DoctorOptions {
  readonly vm: AskedVm | null;
  readonly agent: Endpoint | null;
  readonly fleeceDir: string | null;
  readonly target: string | null;
  readonly monthly: boolean;
  /** `--vm-name`. */
  readonly label: string | null;
  readonly breakLock: boolean;
}

/** @throws QmpBackupError `usage` */
export function doctorOptions(request: DoctorRequest): DoctorOptions {
  const { socket, domain, connect, agentSocket, vmName, ...values } = valuesOf(DOCTOR_OPTIONS, request);
  const vm = vmOf({ socket, domain, connect, agentSocket });
  if (!vm && values.target === null) {
    throw new QmpBackupError('usage', 'doctor was given nothing to look at', {
      hint: 'Name the VM (--socket PATH or --domain NAME), a target (--target DIR), or both.',
    });
  }
  return { ...values, vm, agent: agentOf({ agentSocket }), label: vmName };
}

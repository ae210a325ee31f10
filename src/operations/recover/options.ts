import type { AskedVm } from '../../backends/address.js';
import {
  AGENT_OPTIONS,
  agentOf,
  LOCK_OPTIONS,
  NAMED_VM_OPTIONS,
  TARGET_OPTIONS,
  VM_OPTIONS,
  vmOf,
} from '../../backends/vm-options.js';
import { type OptionRules, type RequestOf, valuesOf, yesOrNo } from '../../core/option-rules.js';
import type { Endpoint } from '../../qmp/endpoint.js';

export const RECOVER_OPTIONS = {
  ...VM_OPTIONS,
  ...AGENT_OPTIONS,
  ...TARGET_OPTIONS,
  ...NAMED_VM_OPTIONS,
  ...LOCK_OPTIONS,
  /** Says what would be repaired. */
  dryRun: yesOrNo('--dry-run'),
} satisfies OptionRules;

export type RecoverRequest = RequestOf<typeof RECOVER_OPTIONS>;

export interface RecoverOptions {
  readonly target: string;
  /** Null where the VM cannot be asked: then only what needs no QEMU is repaired. */
  readonly vm: AskedVm | null;
  /** Where the guest's agent is now; null is where the dead run had it. */
  readonly agent: Endpoint | null;
  readonly monthly: boolean;
  /** `--vm-name`. */
  readonly label: string | null;
  readonly dryRun: boolean;
  readonly breakLock: boolean;
}

/** @throws QmpBackupError `usage` */
export function recoverOptions(request: RecoverRequest): RecoverOptions {
  const { socket, domain, connect, agentSocket, vmName, ...values } = valuesOf(RECOVER_OPTIONS, request);
  const vm = vmOf({ socket, domain, connect, agentSocket });
  return { ...values, vm, agent: agentOf({ agentSocket }), label: vmName };
}

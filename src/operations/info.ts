import type { AskedVm } from '../backends/address.js';
import { inspectDomainSession } from '../backends/libvirt/session.js';
import { openVm, type VmAccess } from '../backends/qmp/session.js';
import { besideDisks, onPassedThrough } from '../core/beside-disks.js';
import type { VmState } from '../core/disk.js';
import { isOurBitmap } from '../core/names.js';
import { type Unwind, unwinding } from '../flow/unwind.js';
import { readTpms } from '../qemu/tpms.js';

/** What the VM has, and why a device is left out. Changes nothing. */
export interface VmInfo {
  readonly vm: VmState;
  /** Nodes' disks whose bitmaps keep QEMU from going back to an internal snapshot. */
  readonly tracked: readonly string[];
  /** What belongs to the machine and is in no point; of a domain its definition tells. */
  readonly beside: readonly string[];
  /** Why none of its files was looked at: they are those of another host. */
  readonly elsewhere: string | null;
}

export interface InfoOptions extends Omit<VmAccess, 'purpose' | 'endDeadJobsMs' | 'monitor'> {
  readonly vm: AskedVm;
}

export function info(options: InfoOptions): Promise<VmInfo> {
  return unwinding(async (unwind) => {
    const { state, ...seen } = await look(options, unwind);
    const tracked = state.disks.filter(({ bitmaps }) => bitmaps.some(({ name }) => isOurBitmap(name)));
    return { vm: state, tracked: tracked.map(({ device, address, qdev }) => device ?? qdev ?? address), ...seen };
  });
}

interface Seen extends Pick<VmInfo, 'beside' | 'elsewhere'> {
  readonly state: VmState;
}

/** A monitor has one client at a time, which takes the VM's lock; libvirt answers many, also while a run has the domain. */
async function look({ vm, ...access }: InfoOptions, unwind: Unwind): Promise<Seen> {
  if (vm.kind === 'domain') {
    const seen = await inspectDomainSession(vm);
    return { ...seen, beside: onPassedThrough(seen.state.passedThrough) };
  }
  const { client, state } = await openVm(
    { ...access, monitor: vm.monitor, purpose: 'info', endDeadJobsMs: null },
    unwind,
  );
  return { state, beside: besideDisks(state, await readTpms(client)), elsewhere: null };
}

import { inspectDomainSession } from '../backends/libvirt/session.js';
import { openVm } from '../backends/qmp/session.js';
import type { VerbContext } from '../backends/verb-context.js';
import { besideDisks, onPassedThrough } from '../core/beside-disks.js';
import type { VmState } from '../core/disk.js';
import { isOurBitmap } from '../core/names.js';
import { type Unwind, unwinding } from '../flow/unwind.js';
import { readTpms } from '../qemu/tpms.js';
import { type InfoOptions, infoOptions, type InfoRequest } from './options.js';

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

export type InfoContext = Pick<VerbContext<never>, 'trace'>;

export function info(request: InfoRequest, { trace }: Partial<InfoContext> = {}): Promise<VmInfo> {
  return unwinding(async (unwind) => {
    const { state, ...seen } = await look({ ...infoOptions(request), trace }, unwind);
    const tracked = state.disks.filter(({ bitmaps }) => bitmaps.some(({ name }) => isOurBitmap(name)));
    return { vm: state, tracked: tracked.map(({ device, address, qdev }) => device ?? qdev ?? address), ...seen };
  });
}

interface Seen extends Pick<VmInfo, 'beside' | 'elsewhere'> {
  readonly state: VmState;
}

/** A monitor has one client at a time, which takes the VM's lock; libvirt answers many, also while a run has the domain. */
async function look({ vm, ...access }: InfoOptions & InfoContext, unwind: Unwind): Promise<Seen> {
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

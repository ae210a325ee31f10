import type { VmState } from '../domain/disk.js';
import { isOurBitmap } from '../domain/names.js';
import { unwinding } from './unwind.js';
import { openVm, type VmAccess } from './vm-session.js';

/** What the VM has, and why a device is left out. Changes nothing. */
export interface VmInfo {
  readonly vm: VmState;
  /** Nodes' disks whose bitmaps keep QEMU from going back to an internal snapshot. */
  readonly tracked: readonly string[];
}

export function info(access: Omit<VmAccess, 'what' | 'endDeadJobsMs'>): Promise<VmInfo> {
  return unwinding(async (unwind) => {
    const { state } = await openVm({ ...access, what: 'info', endDeadJobsMs: null }, unwind);
    const tracked = state.disks.filter(({ bitmaps }) => bitmaps.some(({ name }) => isOurBitmap(name)));
    return { vm: state, tracked: tracked.map(({ device, node, qdev }) => device ?? qdev ?? node) };
  });
}

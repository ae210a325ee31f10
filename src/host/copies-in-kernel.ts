import { realpathSync, statSync } from 'node:fs';
import { isLocal, mountedType } from './mounts.js';

/**
 * Whether a copy from one folder to the other is well left to the kernel (`copy_file_range`), which takes half the processor
 * time, and on file systems with reflink no time and no room. Not over a network, where a server that copies by itself may never
 * tell that it has, and not on ZFS, whose clones of blocks have once been wrong.
 */
export function copiesInKernel(from: string, to: string): boolean {
  return (
    isLocal(from) && isLocal(to) && mountedType(realpathSync(from)) !== 'zfs' && statSync(from).dev === statSync(to).dev
  );
}

import { defaultReserve, floorOf } from '../../core/space.js';
import { freeSpace } from '../../host/free-space.js';
import type { BackupRun } from '../backup-run.js';

/** The images have their limits; but others use that file system, too. */
export async function watchScratch({ options, watch, signal }: BackupRun, folder: string): Promise<void> {
  const { free, total } = await freeSpace(folder, { timeoutMs: options.stallTimeoutMs, signal });
  const reserve = options.reserve ?? defaultReserve({ total });
  watch.watch({ path: folder, what: `the scratch space ${folder}`, floor: floorOf({ free, reserve }), tight: false });
}

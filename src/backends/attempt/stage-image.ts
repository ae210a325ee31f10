import type { PlannedDisk } from '../../core/plan.js';
import { createImage } from '../../qemu-tools/steps.js';
import type { Staging } from '../../repository/staging.js';

/** The empty image of one disk, linked to its parent, which is not opened; returns its absolute path. */
export async function stageImage(
  staging: Staging,
  planned: PlannedDisk,
  { compressionType, signal }: { readonly compressionType: 'zstd' | null; readonly signal: AbortSignal },
): Promise<string> {
  await staging.makeDiskFolder(planned.disk);
  const path = await staging.reserve(planned.disk, planned.file);
  await createImage(path, {
    size: planned.source.virtualSize,
    ...(planned.parent ? { backing: planned.parent.file } : {}),
    signal,
    ...(compressionType ? { compressionType } : {}),
  });
  await staging.adopt(planned.disk, planned.file);
  return path;
}

import { QmpBackupError } from '../../errors.js';
import { warnOfSpace } from '../../host/warn-of-space.js';
import { mostOfCopy } from '../../repository/file-state.js';
import { type OpenPoint, openPoint } from '../../repository/open-point.js';
import type { BootRecord } from './boot-record.js';
import type { BootRun } from './boot-run.js';
import { leansByHeader } from './stands-alone.js';

interface Streamed extends Pick<BootRecord, 'point'> {
  readonly disks: readonly Pick<BootRecord['disks'][number], 'disk' | 'image'>[];
}

/**
 * Tells before it begins that the folder may not take what is copied into the overlays. A guest whose overlay finds no space for
 * what it writes is paused by QEMU, or gets an error.
 */
export async function warnOfStreamSpace(
  { target, folder, context, warn }: Pick<BootRun, 'target' | 'folder' | 'context' | 'warn'>,
  { point, disks }: Streamed,
): Promise<void> {
  const leaning = new Set<string>();
  for (const { disk, image } of disks) if (await leansByHeader(image)) leaning.add(disk);
  if (leaning.size === 0) return;
  const opened = await openOrNull(target, point.id);
  let need = 0;
  for (const { disk, dir, chain } of opened?.disks ?? []) {
    const line = chain.map(({ entry }) => entry);
    if (leaning.has(disk)) need += await mostOfCopy({ dir, line });
  }
  const what = `what is copied of ${point.name}`;
  await warnOfSpace(folder, { need, what }, { warn, signal: context.signal });
}

/** The VM has its files open, and can be freed from a backup whose catalog can be read no more. */
async function openOrNull(target: string, point: string): Promise<OpenPoint | null> {
  try {
    return await openPoint(target, { point }, { look: 'catalog' });
  } catch (error) {
    if (error instanceof QmpBackupError) return null;
    throw error;
  }
}

import { mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { TAR_END, tarHeader, tarPadding } from '../../archive/tar-headers.js';
import type { BackupResult } from '../../backends/backup-run.js';
import { machineRecord } from '../../core/machine-record.js';
import { DEFINITION_FOLDER } from '../../core/names.js';
import type { Unwind } from '../../flow/unwind.js';
import { readKept } from '../../repository/definition-files.js';
import { openPoint } from '../../repository/open-point.js';
import { TEMPORARY } from '../../repository/scratch-place.js';

/**
 * A copy that is stored nowhere. Its run has a folder for a target, of its own and for as long as it lasts, in which all is as in any: lock, journal,
 * the seal of the point. Only the disks go to the archive.
 */
export async function streamFolder(unwind: Unwind): Promise<string> {
  const folder = await mkdtemp(join(TEMPORARY, 'qmpbackup-stream-'));
  unwind.defer(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

/** What follows the disks, once the point is sealed: an archive without it and its end was cut. */
export async function endStream(
  { target, point }: BackupResult,
  { now, archive }: { readonly now: () => Date; readonly archive: (bytes: Buffer) => Promise<void> },
): Promise<void> {
  const put = async (path: string, bytes: Buffer): Promise<void> => {
    const entry = { path, mode: 0o600, uid: 0, gid: 0, mtime: now().getTime() / 1000, type: '0' };
    await archive(Buffer.concat([tarHeader({ ...entry, size: bytes.length }), bytes, tarPadding(bytes.length)]));
  };
  for (const file of point?.definition?.files ?? []) {
    await put(`${DEFINITION_FOLDER}/${file.file}`, await readKept(target, file));
  }
  const opened = await openPoint(target, {}, { look: 'catalog' });
  const machine = machineRecord(opened, (disk) => ({ file: `${disk}.raw`, format: 'raw' }));
  await put('machine.json', Buffer.from(`${JSON.stringify(machine, null, 2)}\n`));
  await archive(TAR_END);
}

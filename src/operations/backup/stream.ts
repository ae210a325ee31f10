import type { BackupOptions } from '../../backends/backup-options.js';
import type { BackupContext } from '../../backends/backup-run.js';
import type { RawSink } from '../../backends/raw-sink.js';
import { machineRecord } from '../../core/machine-record.js';
import { DEFINITION_FOLDER, MACHINE_FILE, rawFileName } from '../../core/names.js';
import type { Point } from '../../core/point.js';
import { QmpBackupError } from '../../errors.js';
import type { Unwind } from '../../flow/unwind.js';
import { isThere } from '../../host/is-there.js';
import { readKept } from '../../repository/definition-files.js';
import { journalPath } from '../../repository/layout.js';
import { openPoint } from '../../repository/open-point.js';
import { rawFolder } from './raw-folder.js';
import { rawTar } from './raw-tar.js';
import { makeStreamFolder, removeStreamFolder } from '../../repository/stream-folder.js';

/** What a copy that is stored nowhere has for a target. All is as in any run, and only the disks go to the archive. */
export async function streamFolder(unwind: Unwind): Promise<string> {
  const folder = await makeStreamFolder();
  // What could not be undone is in its journal, by which the next run of the VM does it.
  unwind.defer(async () => {
    if (!(await isThere(journalPath(folder)))) await removeStreamFolder(folder);
  });
  return folder;
}

/** Where its disks go instead: nothing is there before this, and what is not ended is nothing. */
export async function rawSink(
  { output, breakLock }: Pick<BackupOptions, 'output' | 'breakLock'>,
  { archive, now }: Pick<BackupContext, 'archive' | 'now'>,
  unwind: Unwind,
): Promise<RawSink | undefined> {
  if (output === null) return undefined;
  if (output !== '-') return rawFolder(output, { breakLock }, unwind);
  if (!archive) throw new QmpBackupError('usage', 'nobody takes the archive');
  return rawTar(archive, now);
}

/** What follows the disks, once the point is sealed. */
export async function endRaw(
  { target, point }: { readonly target: string; readonly point: Point },
  sink: RawSink,
): Promise<void> {
  for (const file of point.definition?.files ?? []) {
    await sink.file(`${DEFINITION_FOLDER}/${file.file}`, await readKept(target, file));
  }
  const opened = await openPoint(target, {}, { look: 'catalog' });
  const machine = machineRecord(opened, (disk) => ({ file: rawFileName(disk), format: 'raw' }));
  await sink.file(MACHINE_FILE, Buffer.from(`${JSON.stringify(machine, null, 2)}\n`));
  await sink.end();
}

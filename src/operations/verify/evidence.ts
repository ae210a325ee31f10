import { copyFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { messageOf, QmpBackupError } from '../../errors.js';
import { Unwind } from '../../flow/unwind.js';
import { fileError } from '../../host/file-errors.js';
import type { QmpClient } from '../../qmp/client.js';
import { run } from '../../qmp/commands.js';
import { QmpCommandError } from '../../qmp/errors.js';
import { makeFolder } from '../../repository/make-folder.js';
import type { Evidence } from './request.js';

/** Takes a picture of the screen, in the folder of the machine: its path, or why there is none. */
export async function takePicture(
  monitor: QmpClient,
  folder: string,
): Promise<{ readonly path: string } | { readonly why: string }> {
  for (const format of ['png', 'ppm'] as const) {
    const path = join(folder, `screen.${format}`);
    try {
      // Versions before 7.1 know no format but ppm.
      await run(monitor, 'screendump', { filename: path, ...(format === 'png' && { format }) });
      return { path };
    } catch (error) {
      if (!(error instanceof QmpBackupError)) throw error;
      const isUnknown = error instanceof QmpCommandError && /format|png/i.test(error.desc);
      if (!isUnknown || format === 'ppm') return { why: `there is no picture of its screen: ${messageOf(error)}` };
    }
  }
  return { why: 'there is no picture of its screen' };
}

/** Keeps what was seen in a folder of the user's, under the name of the point. */
export async function keepEvidence(
  folder: string,
  name: string,
  {
    picture,
    serialLog,
  }: { readonly picture: Awaited<ReturnType<typeof takePicture>> | null; readonly serialLog: string },
): Promise<Evidence> {
  const to = resolve(folder);
  await makeFolder(to, new Unwind());
  const files: string[] = [];
  const keep = async (from: string, as: string): Promise<void> => {
    const path = join(to, as);
    try {
      await copyFile(from, path);
    } catch (error) {
      throw fileError('write', path, error);
    }
    files.push(path);
  };
  if (picture && 'path' in picture)
    await keep(picture.path, `${name}${picture.path.slice(picture.path.lastIndexOf('.'))}`);
  await keep(serialLog, `${name}.serial.log`);
  return { files, missing: picture && 'why' in picture ? [picture.why] : [] };
}

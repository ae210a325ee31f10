import { copyFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { Unwind } from '../../flow/unwind.js';
import { fileError } from '../../host/file-errors.js';
import { makeFolder } from '../../repository/make-folder.js';
import type { Evidence } from './request.js';
import type { Picture } from './trial-machine.js';

/** Keeps what was seen in a folder of the user's, under the name of the point. */
export async function keepEvidence(
  folder: string,
  name: string,
  { picture, serialLog }: { readonly picture: Picture | null; readonly serialLog: string },
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

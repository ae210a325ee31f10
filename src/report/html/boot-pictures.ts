import { join } from 'node:path';
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { evidenceName } from '../../core/boot-proof.js';
import { codeOf } from '../../host/file-errors.js';
import type { PointView } from './point-view.js';

/** What the screen showed when a point was started, as `verify --boot --evidence` has kept it. */
export interface BootPicture {
  readonly view: PointView;
  /** `data:image/png;base64,…` */
  readonly source: string;
}

/** A page has so many at most, the newest, and so many bytes of them. */
const [MOST, MOST_BYTES] = [6, 1024 * 1024];
const PNG = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);

/** Of the points that were started last; those of which there is no picture that a browser knows are left out. */
export async function bootPictures(points: readonly PointView[], folder: string): Promise<readonly BootPicture[]> {
  const started = points.filter(({ listed }) => listed.booted !== null);
  const newest = started.toSorted((a, b) => startedAt(b).localeCompare(startedAt(a))).slice(0, MOST);
  const pictures: BootPicture[] = [];
  let left = MOST_BYTES;
  for (const view of newest) {
    const bytes = await readPng(join(folder, `${evidenceName(view.listed.point)}.png`), left);
    if (!bytes) continue;
    left -= bytes.length;
    pictures.push({ view, source: `data:image/png;base64,${bytes.toString('base64')}` });
  }
  return pictures;
}

function startedAt({ listed }: PointView): string {
  return listed.booted?.at ?? '';
}

/** Undefined where there is none, or it is something else, or too large. A link is not followed: others may write to the folder. */
async function readPng(path: string, limit: number): Promise<Buffer | undefined> {
  try {
    const handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    try {
      const stats = await handle.stat();
      if (!stats.isFile() || stats.size > limit) return undefined;
      const bytes = await handle.readFile();
      return bytes.subarray(0, PNG.length).equals(PNG) ? bytes : undefined;
    } finally {
      await handle.close();
    }
  } catch (error) {
    // It goes to whoever tidies up there; the page has the result without it.
    if (['ENOENT', 'ENOTDIR', 'ELOOP', 'EACCES'].includes(codeOf(error) ?? '')) return undefined;
    throw error;
  }
}

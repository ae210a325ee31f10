import { join } from 'node:path';
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { evidenceName } from '../../core/boot-proof.js';
import { formatBytes } from '../../core/bytes.js';
import { messageOf } from '../../errors.js';
import { codeOf } from '../../host/file-errors.js';
import { FileSystemHangs } from '../../host/free-space.js';
import { whileAnswering } from '../../host/while-answering.js';
import type { PointView } from './point-view.js';

/** What the screen showed when a point was started, as `verify --boot --evidence` has kept it. */
export interface BootPicture {
  readonly view: PointView;
  readonly shown: Shown;
}

/** `data:image/png;base64,…`, or why there is nothing to be seen, in words. */
type Shown = { readonly source: string } | { readonly why: string };

/** A page has so many at most, the newest, and so many bytes of them. */
const [MOST, MOST_BYTES] = [6, 1024 * 1024];
const PNG = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);

/** Of the points that were started last; those of which no picture was kept are left out. A picture is no reason for a report to fail. */
export async function bootPictures(points: readonly PointView[], folder: string): Promise<readonly BootPicture[]> {
  const started = points.filter(({ listed }) => listed.booted !== null);
  const newest = started.toSorted((a, b) => startedAt(b).localeCompare(startedAt(a))).slice(0, MOST);
  const pictures: BootPicture[] = [];
  let left = MOST_BYTES;
  for (const view of newest) {
    try {
      const picture = await whileAnswering(
        folder,
        readPng(join(folder, `${evidenceName(view.listed.point)}.png`), left),
      );
      if (picture === undefined) continue;
      if (Buffer.isBuffer(picture)) left -= picture.length;
      pictures.push({ view, shown: typeof picture === 'string' ? { why: picture } : { source: asData(picture) } });
    } catch (error) {
      pictures.push({ view, shown: { why: messageOf(error) } });
      // The others are in the same folder.
      if (error instanceof FileSystemHangs) break;
    }
  }
  return pictures;
}

function startedAt({ listed }: PointView): string {
  return listed.booted?.at ?? '';
}

function asData(png: Buffer): string {
  return `data:image/png;base64,${png.toString('base64')}`;
}

/** Undefined where there is none, words where it is nothing to be shown. A link is not followed: others may write to the folder. */
async function readPng(path: string, limit: number): Promise<Buffer | string | undefined> {
  try {
    const handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    try {
      const stats = await handle.stat();
      if (!stats.isFile()) return 'the picture is no plain file';
      if (stats.size > limit) return `the picture takes ${formatBytes(stats.size)}, for which this page has no room`;
      const bytes = await handle.readFile();
      return bytes.subarray(0, PNG.length).equals(PNG) ? bytes : 'the picture is no PNG';
    } finally {
      await handle.close();
    }
  } catch (error) {
    // Whoever tidies up there may take it; the page has the result without it.
    if (['ENOENT', 'ENOTDIR'].includes(codeOf(error) ?? '')) return undefined;
    return `the picture cannot be read: ${messageOf(error)}`;
  }
}

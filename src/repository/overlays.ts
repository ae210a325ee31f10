import { rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import * as v from 'valibot';
import { isFault } from '../core/file-record.js';
import { QmpBackupError } from '../errors.js';
import { renameDurably, replaceFile, syncFile } from '../host/durable.js';
import { readJsonFile } from '../host/plain-file.js';
import { createImage } from '../host/empty-image.js';
import { checkHeader } from './check-file.js';
import { isThere } from '../host/is-there.js';
import type { OpenDisk, OpenPoint } from './open-point.js';

/**
 * Overlays of `serve --overlay DIR` and of `boot --to DIR`: `<disk>.qcow2` for each disk, and `overlay.json`, which says what they are above. They are
 * what somebody worked on: they are used again, and never removed.
 */
const RECORD = 'overlay.json';
const LIMIT = 64 * 1024;
const recordSchema = v.object({
  schema: v.literal(1),
  targetId: v.string(),
  point: v.string(),
  /** The link that each was made with, by disk id: an overlay with this link is still above its point, whose files may be others by now. */
  links: v.optional(v.record(v.string(), v.string())),
});

export interface Overlay {
  readonly path: string;
  /** It has all of its disk, and leans on no point any more. */
  readonly standsAlone: boolean;
}

export interface OverlayOptions {
  /** For who leaves an overlay that stands alone without what it was above: with that below, what was discarded would be back. */
  readonly mayStandAlone?: boolean;
}

/**
 * The overlay of each disk that was opened, by disk id; made where there is none. The folder is there, and is not the backup's.
 *
 * @throws QmpBackupError `unsafe` for a folder with overlays of another point, or where one is not as it was made
 */
export async function prepareOverlays(
  folder: string,
  { catalog, point, disks, name }: OpenPoint,
  { mayStandAlone = false }: OverlayOptions = {},
): Promise<ReadonlyMap<string, Overlay>> {
  const found = await readRecord(folder);
  const record = { schema: 1, targetId: catalog.targetId, point: point.id };
  if (found && (found.targetId !== record.targetId || found.point !== record.point)) {
    const other = found.targetId === record.targetId ? `point ${found.point}` : `the backup ${found.targetId}`;
    throw new QmpBackupError('unsafe', `the overlays in ${folder} are of ${other}, not of ${name}`, {
      hint: 'Choose another folder, or the point that they belong to: --point',
    });
  }
  const links = { ...found?.links };
  for (const { disk, chain } of disks) {
    const path = overlayPath(folder, disk);
    if (!(await isThere(path))) links[disk] = belowOf(chain);
    else if (!found) throw noOverlay(path, disk, 'it was not made by a serve or boot');
  }
  if (JSON.stringify(found?.links) !== JSON.stringify(links)) {
    await replaceFile(join(folder, RECORD), `${JSON.stringify({ ...record, links }, null, 1)}\n`, { mode: 0o600 });
  }
  const overlays = new Map<string, Overlay>();
  for (const each of disks) {
    const below = belowOf(each.chain);
    const allowed = [below, links[each.disk] ?? below, ...(mayStandAlone ? [null] : [])];
    overlays.set(each.disk, await prepareOverlay(overlayPath(folder, each.disk), each, allowed));
  }
  return overlays;
}

/** @param links what an overlay that is there may be above, by its header */
async function prepareOverlay(
  path: string,
  { disk, chain, entry }: OpenDisk,
  links: readonly (string | null)[],
): Promise<Overlay> {
  if (await isThere(path)) {
    const seen = await checkHeader(path, { links: [...new Set(links)], virtualSize: entry.virtualSize });
    if (isFault(seen)) throw noOverlay(path, disk, seen.why);
    return { path, standsAlone: seen.backingFile === null };
  }
  const fresh = `${path}.tmp`;
  try {
    await rm(fresh, { force: true });
    // The link is for people and other programs: here the chain is named file by file.
    await createImage(fresh, { size: entry.virtualSize, backing: belowOf(chain) });
    await syncFile(fresh);
    await renameDurably(fresh, path);
  } catch (error) {
    await rm(fresh, { force: true });
    throw error;
  }
  return { path, standsAlone: false };
}

function belowOf(chain: OpenDisk['chain']): string {
  return chain.at(-1)?.path ?? '';
}

function noOverlay(path: string, disk: string, why: string): QmpBackupError {
  return new QmpBackupError('unsafe', `${path} cannot be the overlay of ${disk}: ${why}`, {
    hint: 'Choose another folder, or move that file away.',
  });
}

function overlayPath(folder: string, disk: string): string {
  return resolve(folder, `${disk}.qcow2`);
}

/** The id of the point that the overlays in a folder are above; undefined where there are none. */
export async function pointOfOverlays(folder: string): Promise<string | undefined> {
  return (await readRecord(folder))?.point;
}

async function readRecord(folder: string): Promise<v.InferOutput<typeof recordSchema> | undefined> {
  const path = join(folder, RECORD);
  const hint = 'Choose another folder for the overlays.';
  const value = await readJsonFile(path, LIMIT, hint);
  if (value === undefined) return undefined;
  const parsed = v.safeParse(recordSchema, value);
  if (parsed.success) return parsed.output;
  throw new QmpBackupError('unsafe', `${path} is not understood by this version`, { hint });
}

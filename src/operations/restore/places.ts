import type { Stats } from 'node:fs';
import { lstat, realpath, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { type BlockNodeSpec, fileNode } from '../../core/block-node.js';
import type { RestoredNames } from '../../core/restored-names.js';
import { QmpBackupError } from '../../errors.js';
import type { Unwind } from '../../flow/unwind.js';
import { type ClaimedDevice, claimDevice, shareBytes } from '../../host/block-device.js';
import { codeOf, fileError } from '../../host/file-errors.js';
import { refuseInUse } from '../../qemu-tools/in-use.js';
import type { ImageFormat } from '../../qemu-tools/steps.js';
import { refuseBackupFolder } from '../../repository/nesting.js';
import type { ImageToMake } from './image-under-way.js';

/** Where a disk is restored to: an image that is made, or a block device that is written over (decision 29). */
export type DiskPlace = NewImage | DevicePlace;

export interface NewImage extends ImageToMake {
  readonly kind: 'image';
}

export interface DevicePlace {
  readonly kind: 'device';
  /** As it was named, made absolute: a link of udev's or LVM's goes on meaning the same disk. */
  readonly path: string;
  readonly device: ClaimedDevice;
}

export interface PlaceRequest {
  /** Null where every disk has a place of its own. */
  readonly output: string | null;
  /** Places by disk id. */
  readonly to: Readonly<Record<string, string>>;
  readonly overwrite: boolean;
  readonly format: ImageFormat;
}

export interface PlacedDisk {
  readonly disk: string;
  /** Bytes. */
  readonly virtualSize: number;
}

/**
 * The place of each disk, in their order. Devices are claimed until `unwind`; nothing is written.
 *
 * @throws QmpBackupError `usage` where a disk has no place or two have one; `unsafe` for what is not to be written over, is in
 * use, or too small
 */
export async function findPlaces(
  point: string,
  disks: readonly PlacedDisk[],
  names: RestoredNames,
  request: PlaceRequest,
  unwind: Unwind,
): Promise<readonly DiskPlace[]> {
  refuseUnknown(point, disks, request);
  await refuseTwins(disks, names, request);
  const places: DiskPlace[] = [];
  for (const each of disks) places.push(await placeOf(each, names, request, unwind));
  return places;
}

function refuseUnknown(point: string, disks: readonly PlacedDisk[], { output, to }: PlaceRequest): void {
  const known = disks.map(({ disk }) => disk);
  const unknown = Object.keys(to).find((disk) => !known.includes(disk));
  if (unknown !== undefined) {
    throw new QmpBackupError('usage', `--to ${unknown}: ${unknown} is no disk that is restored of ${point}`, {
      hint: `These are: ${known.join(', ')}`,
    });
  }
  const homeless = known.find((disk) => output === null && !Object.hasOwn(to, disk));
  if (homeless === undefined) return;
  throw new QmpBackupError('usage', `nothing says where ${homeless} is to be restored`, {
    hint: `Give --output DIR, or --to ${homeless}=PATH, or name the disks that are meant: --disk ${Object.keys(to).join(',')}`,
  });
}

async function placeOf(
  { disk, virtualSize }: PlacedDisk,
  names: RestoredNames,
  request: PlaceRequest,
  unwind: Unwind,
): Promise<DiskPlace> {
  const { to, overwrite, format } = request;
  const path = pathFor(disk, names, request);
  if (!Object.hasOwn(to, disk)) return imageAt(path, false);
  const found = await lookAt(path);
  if (found?.isBlockDevice()) {
    if (!overwrite) throw refused(path, 'is a block device, and all that is on it would be lost', OVERWRITE);
    return claimed(path, virtualSize, unwind);
  }
  await refuseBackupFolder(dirname(path));
  if (!found) return imageAt(path, false);
  if (!(await lstat(path)).isFile()) throw refused(path, 'is neither a block device nor a plain file', ANOTHER);
  if (!overwrite) throw refused(path, 'exists already', `${OVERWRITE} ${ANOTHER}`);
  await refuseInUse(path, fileNode(path));
  return imageAt(path, true);

  function imageAt(at: string, replaces: boolean): NewImage {
    return { kind: 'image', path: at, format, replaces };
  }
}

function pathFor(disk: string, names: RestoredNames, { output, to, format }: PlaceRequest): string {
  return Object.hasOwn(to, disk) ? resolve(to[disk] ?? '') : join(output ?? '', names.image(disk, format));
}

const OVERWRITE = 'Add --overwrite if that is meant.';
const ANOTHER = 'Choose another place.';

async function claimed(path: string, virtualSize: number, unwind: Unwind): Promise<DevicePlace> {
  const device = await claimDevice(path);
  unwind.defer(() => device.release());
  if (device.size < virtualSize) {
    const why = `has ${device.size} bytes, and the disk has ${virtualSize}`;
    throw refused(path, why, 'Make it larger, or choose another device.');
  }
  await refuseInUse(path, deviceNode(device));
  return { kind: 'device', path, device };
}

export function deviceNode({ path }: ClaimedDevice): BlockNodeSpec {
  return { driver: 'host_device', filename: path };
}

/** Undefined where nothing is there, nor a link that leads nowhere. */
async function lookAt(path: string): Promise<Stats | undefined> {
  try {
    return await stat(path);
  } catch (error) {
    if (codeOf(error) !== 'ENOENT') throw fileError('look at', path, error);
  }
  try {
    return await lstat(path);
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined;
    throw fileError('look at', path, error);
  }
}

/** Before any is claimed, for nobody can claim one twice. */
async function refuseTwins(disks: readonly PlacedDisk[], names: RestoredNames, request: PlaceRequest): Promise<void> {
  const paths = disks.map(({ disk }) => pathFor(disk, names, request));
  for (const [index, path] of paths.entries()) {
    for (const [at, before] of paths.slice(0, index).entries()) {
      if (!(await isSamePlace(before, path))) continue;
      const both = `${disks[at]?.disk} and ${disks[index]?.disk}`;
      throw new QmpBackupError('usage', `${both} would be written over each other: ${before}, ${path}`, {
        hint: 'Give each disk a place of its own.',
      });
    }
  }
}

async function isSamePlace(a: string, b: string): Promise<boolean> {
  if ((await realPlace(a)) === (await realPlace(b))) return true;
  const areDevices = (await lookAt(a))?.isBlockDevice() && (await lookAt(b))?.isBlockDevice();
  return areDevices === true && shareBytes(a, b);
}

async function realPlace(path: string): Promise<string> {
  try {
    return join(await realpath(dirname(path)), basename(path));
  } catch (error) {
    // The folder will be made.
    if (codeOf(error) === 'ENOENT') return path;
    throw fileError('look at', dirname(path), error);
  }
}

function refused(path: string, why: string, hint: string): QmpBackupError {
  return new QmpBackupError('unsafe', `${path} ${why}`, { hint });
}

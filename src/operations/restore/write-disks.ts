import { dirname } from 'node:path';
import { warning } from '../../core/warning.js';
import type { Unwind } from '../../flow/unwind.js';
import { makeFolder } from '../../repository/make-folder.js';
import { beginImage, type ImageUnderWay } from './image-under-way.js';
import type { DevicePlace, DiskPlace, NewImage } from './places.js';
import type { RestoreRun, RestoreSource, RestoreSourceDisk } from './restore-source.js';
import { copyChain, type CopyOptions, promoteCopy, prove, writeDevice } from './standalone-copy.js';

/** The disks of a restore, from their places being taken to their names. */
export interface DiskUnderWay extends RestoreSourceDisk {
  readonly place: DiskPlace;
  /** Of an image. */
  readonly image: { readonly place: NewImage; readonly underWay: ImageUnderWay } | null;
}

/** Takes the places of all images. */
export async function beginDisks(
  { what, owner, options: { breakLock } }: RestoreRun,
  { disks }: RestoreSource,
  places: readonly DiskPlace[],
  undo: Unwind,
): Promise<readonly DiskUnderWay[]> {
  const begun: DiskUnderWay[] = [];
  for (const [index, disk] of disks.entries()) {
    const place = places[index];
    if (!place) continue;
    if (place.kind === 'device') {
      begun.push({ ...disk, place, image: null });
      continue;
    }
    await makeFolder(dirname(place.path), undo, { owner });
    const underWay = await beginImage(place, disk.source, { what, breakLock }, undo);
    begun.push({ ...disk, place, image: { place, underWay } });
  }
  return begun;
}

/**
 * Images first, for what fails with them is undone. Where a device is written, every file of every disk is proved before the
 * first byte.
 */
export async function writeDisks(run: RestoreRun, disks: readonly DiskUnderWay[]): Promise<void> {
  const { deps, signal, options } = run;
  const proved = disks.some(({ place }) => place.kind === 'device');
  if (proved) for (const { source } of disks) await prove(source, { signal, ...options }, false, deps);
  for (const { disk, source, image } of disks) {
    if (image) await copyChain(source, image.place, image.underWay, { ...copying(run, disk), proved }, deps);
  }
  for (const { disk, source, place } of disks) {
    signal.throwIfAborted();
    if (place.kind === 'device') await overwrite(run, disk, source, place);
  }
}

async function overwrite(
  run: RestoreRun,
  disk: string,
  source: RestoreSourceDisk['source'],
  { path, device }: DevicePlace,
): Promise<void> {
  try {
    await writeDevice(source, device, copying(run, disk), run.deps);
  } catch (error) {
    run.warn(
      warning(
        'device-incomplete',
        `${path} is written in part: what was on it is lost, and ${disk} is not whole there`,
      ),
    );
    throw error;
  }
}

function copying({ owner, signal, options: { rateLimit, verify }, context }: RestoreRun, disk: string): CopyOptions {
  const onProgress = (percent: number): void => context.report({ kind: 'progress', disk, percent });
  return { signal, rateLimit, verify, owner, onProgress };
}

/** Gives each image its name. */
export async function finishDisks({ deps }: RestoreRun, disks: readonly DiskUnderWay[], undo: Unwind): Promise<void> {
  for (const { image } of disks) if (image) await promoteCopy(image.place, image.underWay, undo, deps);
}

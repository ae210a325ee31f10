import type { DirtyBitmap, SourceDisk } from '../../core/disk.js';
import { totalLength } from '../../core/extents.js';
import { isOurBitmap } from '../../core/names.js';
import { isQcow2, QCOW2_START } from '../../core/qcow2-header.js';
import { firstBytes } from '../../host/first-bytes.js';
import { NbdClient } from '../../nbd/client.js';
import { ALLOCATION, dirtyBitmapContext, readExtents } from '../../nbd/meta-contexts.js';
import { type ImageFile, imageFile } from '../../qemu-tools/image-file.js';
import { inspectOfflineImage, type OfflineBitmap, offlineNode } from '../../qemu-tools/offline-image.js';
import { startQemuNbd } from '../../qemu-tools/qemu-nbd.js';

/** A disk of a VM that is off. */
export interface OfflineDisk {
  readonly image: ImageFile;
  /** What names it in the VM: a libvirt target, or what a person says. */
  readonly name: string;
  /** The name is the disk id. */
  readonly named: boolean;
  readonly cannotTrack: string | null;
}

/** @throws QmpBackupError `unsafe` where the image is missing, no image, or in use */
export async function offlineSource(disk: OfflineDisk, signal: AbortSignal): Promise<SourceDisk> {
  const { name, named, image, cannotTrack } = disk;
  const { path, format } = image;
  const { virtualSize, allocated, compat, encrypted, bitmaps, backing, description } = await inspectOfflineImage(image);
  const read: DirtyBitmap[] = [];
  for (const bitmap of bitmaps) {
    const readable = isOurBitmap(bitmap.name) && !bitmap.inconsistent && !bitmap.inLayers && !encrypted;
    read.push(dirtyBitmapOf(bitmap, readable ? await dirtyBytes(image, bitmap.name, signal) : virtualSize));
  }
  return {
    ...(named ? { id: name } : {}),
    ...{ device: name, qdev: null, address: name, root: name, underJob: false },
    ...{ format, file: path, virtualSize, allocated, compat, encrypted, cannotTrack },
    bitmaps: read,
    backing,
    image: description,
  };
}

/** `qcow2` for what begins like one, as QEMU guesses; else `raw`. */
export async function guessFormat(path: string): Promise<'qcow2' | 'raw'> {
  await imageFile({ path, format: 'raw' });
  return isQcow2(await firstBytes(path, QCOW2_START)) ? 'qcow2' : 'raw';
}

function dirtyBitmapOf({ inLayers, ...bitmap }: OfflineBitmap, count: number): DirtyBitmap {
  const layers = 'it lies in several layers (an external snapshot was made), and only the running VM adds them up';
  return { ...bitmap, count, persistent: true, busy: false, ...(inLayers ? { unreadable: layers } : {}) };
}

/** What a bitmap marks, in bytes: no program tells it without serving it. */
async function dirtyBytes(image: ImageFile, bitmap: string, signal: AbortSignal): Promise<number> {
  const server = await startQemuNbd({ node: offlineNode(image), readOnly: true, bitmap, signal });
  try {
    const contexts = [ALLOCATION, dirtyBitmapContext(bitmap)];
    const client = await NbdClient.connect({ kind: 'unix', path: server.socketPath }, { contexts, signal });
    try {
      return totalLength((await readExtents(client, bitmap)).dirty ?? []);
    } finally {
      await client.close();
    }
  } finally {
    await server.kill();
  }
}

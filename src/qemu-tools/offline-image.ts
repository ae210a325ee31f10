import { type BlockNodeSpec, nameOfNode } from '../core/block-node.js';
import { messageOf, QmpBackupError } from '../errors.js';
import { type ImageFile, placeNode } from './image-file.js';
import { parseImageInfo } from './image-info.js';
import { runShort } from './runner.js';

/** Sizes are bytes. */
export interface OfflineImage {
  readonly virtualSize: number;
  /** Takes on its storage, along the whole chain; at most `virtualSize`. */
  readonly allocated: number;
  /** qcow2 compatibility level, else null. */
  readonly compat: string | null;
  readonly encrypted: boolean;
  readonly bitmaps: readonly OfflineBitmap[];
  /** The files that it builds on, nearest first. */
  readonly backing: readonly string[];
  /** What qemu-img said of the top image. */
  readonly description: unknown;
}

export interface OfflineBitmap {
  readonly name: string;
  readonly granularity: number;
  /** The image was not closed cleanly; the bitmap can only be removed. */
  readonly inconsistent: boolean;
  readonly recording: boolean;
  /** An image below has a bitmap of this name, too: only both together tell what changed. */
  readonly inLayers: boolean;
}

/**
 * The image as a block node that nobody can open for writing as long as it is open itself. The drivers of other formats
 * see to that for their metadata; a raw image has none, and is shared with writers unless one asks (7.2).
 */
export function offlineNode({ format, place }: ImageFile): BlockNodeSpec {
  const file = placeNode(place);
  if (format !== 'raw' || place.kind === 'network') return { driver: format, file };
  return { driver: 'raw', file: { driver: 'blkdebug', 'unshare-child-perms': ['write', 'resize'], image: file } };
}

/**
 * @throws QmpBackupError `unsafe` where a QEMU has the image open for writing; `failed` in qemu-img's words
 */
export async function inspectOfflineImage(image: ImageFile): Promise<OfflineImage> {
  const { stdout } = await refusingWriters(image.path, () =>
    runShort(['info', '--output=json', '--backing-chain', nameOfNode(offlineNode(image))]),
  );
  const layers = JSON.parse(stdout) as readonly unknown[];
  const [top, ...below] = layers.map((layer) => parseImageInfo(JSON.stringify(layer)));
  if (!top) throw new QmpBackupError('failed', `qemu-img said nothing of ${image.path}`);
  const taken = [top, ...below].reduce((sum, { allocated }) => sum + allocated, 0);
  const data = specificOf(top.all);
  const namesBelow = new Set(below.flatMap(({ all }) => (specificOf(all).bitmaps ?? []).map(({ name }) => name)));
  return {
    virtualSize: top.virtualSize,
    // What is no file does not tell what it takes.
    allocated: image.place.kind !== 'file' ? top.virtualSize : Math.min(taken, top.virtualSize),
    compat: data.compat ?? null,
    encrypted: (top.all as { readonly encrypted?: boolean }).encrypted ?? false,
    bitmaps: (data.bitmaps ?? []).map(({ name, granularity, flags }) => ({
      name,
      granularity,
      inconsistent: flags.includes('in-use'),
      recording: flags.includes('auto'),
      inLayers: namesBelow.has(name),
    })),
    backing: below.flatMap(({ all }) => (all as { readonly filename?: string }).filename ?? []),
    description: top.all,
  };
}

/** @throws QmpBackupError `unsafe` in the place of what QEMU's programs say of an image that a QEMU writes to */
export async function refusingWriters<T>(path: string, step: () => Promise<T>): Promise<T> {
  try {
    return await step();
  } catch (error) {
    if (!(error instanceof QmpBackupError) || !/Failed to get .*lock/.test(messageOf(error))) throw error;
    throw new QmpBackupError('unsafe', `${path} is in use: a program, most likely the VM, has it open for writing`, {
      cause: error,
      hint: 'Nothing was changed. Back up a VM that runs with --socket or --domain.',
    });
  }
}

interface Specific {
  readonly compat?: string;
  readonly bitmaps?: readonly {
    readonly name: string;
    readonly granularity: number;
    readonly flags: readonly string[];
  }[];
}

function specificOf(all: unknown): Specific {
  const { 'format-specific': specific } = all as { readonly 'format-specific'?: { readonly data?: Specific } };
  return specific?.data ?? {};
}

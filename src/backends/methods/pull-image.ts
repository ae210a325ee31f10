/**
 * Fills one new image from one NBD export: a FULL by `qemu-img convert`, which was measured to be the fastest, an
 * increment by our own client, which reads what a dirty bitmap names and writes through a qemu-nbd on the image.
 */
import { rangesOfIncrement, totalLength } from '../../core/extents.js';
import { IMAGE_CLUSTER } from '../../core/image-cluster.js';
import { type BlockNodeSpec, fileNode, nameOfNode, nbdNode, qcow2Node } from '../../core/block-node.js';
import type { NbdSource } from '../../core/nbd-address.js';
import { QmpBackupError } from '../../errors.js';
import { takesDirectIo } from '../../host/direct-io.js';
import { NbdClient, type NbdDeadlines } from '../../nbd/client.js';
import { NbdConnectionLost } from '../../nbd/errors.js';
import { ALLOCATION, changesContext, readExtents } from '../../nbd/meta-contexts.js';
import { pull, type PullOptions, type PullProgress, type PullSink, sinkOf } from '../../nbd/pull.js';
import { startQemuNbd } from '../../qemu-tools/qemu-nbd.js';
import { convert } from '../../qemu-tools/steps.js';

export interface PullImageOptions {
  readonly signal?: AbortSignal | undefined;
  /** Bytes per second; 0 or absent is no limit. */
  readonly rateLimit?: number | undefined;
  readonly compress?: boolean | undefined;
  /**
   * A number that grows as long as the pull gets on, also where its progress does not: of a FULL the CPU time that was
   * taken, of an increment the bytes of the disk whose extents are known.
   */
  readonly onWork?: ((work: number) => void) | undefined;
}

export interface PullFullOptions extends PullImageOptions {
  /** Percent, 0 to 100, in steps of one. */
  readonly onProgress?: ((percent: number) => void) | undefined;
}

export interface PullIncrementOptions extends PullImageOptions {
  readonly onProgress?: ((progress: PullProgress) => void) | undefined;
  readonly deadlines?: NbdDeadlines | undefined;
  /** Where the private folder of the writing qemu-nbd is made; default the system's folder for temporary files. */
  readonly folder?: string | undefined;
}

export interface Increment {
  readonly source: NbdSource;
  /** The dirty bitmap's name in the export, without `qemu:dirty-bitmap:`; or `OWN_CLUSTERS`. */
  readonly bitmap: string;
  /** Absolute path of an empty qcow2 image of the disk's size. Its backing link is neither followed nor changed. */
  readonly target: string;
}

/** What may lie in the page cache at a time, in bytes: to flush it must not take so long that it looks like a hang. */
const UNFLUSHED = 64 * 1024 * 1024;
/** The disk's size in an image is a multiple of it. */
const SECTOR = 512;

/**
 * All data of the export into an empty qcow2 image that is there (an absolute path). What reads as zeros takes no space.
 *
 * @throws QmpBackupError `failed` in the words of qemu-img; the signal's reason.
 */
export async function pullFull(source: NbdSource, target: string, options: PullFullOptions = {}): Promise<void> {
  const direct = await writesDirectly(target, options);
  await convert(nameOfNode(nbdNode(source)), target, { ...options, direct, existing: true, cwd: '/' });
}

/** Compressed clusters are small and lie close together: without the cache each would be read and written again. */
async function writesDirectly(target: string, { compress }: PullImageOptions): Promise<boolean> {
  return !compress && (await takesDirectIo(target));
}

/**
 * The dirty clusters of the export, and nothing else, into an empty image: what was zeroed becomes zero clusters, which
 * hide the parent's data. When it resolves the image is closed and flushed; where it rejects nobody has it open. Disks
 * that are no multiple of a cluster are not compressed: QEMU's filter takes whole clusters only.
 *
 * @throws the errors of `nbd/errors.ts`; QmpBackupError `failed` in qemu-nbd's words; by the signal NbdInterrupted or its
 * reason.
 */
export async function pullIncrement(increment: Increment, options: PullIncrementOptions = {}): Promise<PullProgress> {
  const { source, bitmap, target } = increment;
  const { signal, deadlines = {} } = options;
  const common = { deadlines, ...(signal ? { signal } : {}) };
  const contexts = [ALLOCATION, changesContext(bitmap)];
  const from = await NbdClient.connect(source.address, { ...common, exportName: source.exportName, contexts });
  try {
    const { size } = from.export;
    const { zero, dirty = [] } = await readExtents(from, bitmap, options.onWork);
    const ranges = rangesOfIncrement({ dirty, zero }, { size, clusterSize: IMAGE_CLUSTER });
    await fillImage(target, size, options, async (sink, pace) => {
      await pull(from, ranges, sink, { ...options, ...pace });
    });
    const total = totalLength(ranges);
    return { done: total, total };
  } finally {
    await from.close();
  }
}

/** What an image that is filled through the page cache is flushed by. */
type Pace = Pick<PullOptions, 'flushEvery'>;

/**
 * Hands `fill` an empty qcow2 image that is there, as a sink. When it resolves the image is closed and flushed; where it rejects
 * nobody has it open.
 *
 * @param target its absolute path
 * @param size of the disk's export, in bytes
 */
export async function fillImage(
  target: string,
  size: number,
  options: Omit<PullIncrementOptions, 'onProgress'>,
  fill: (sink: PullSink, pace: Pace) => Promise<void>,
): Promise<void> {
  const { signal, deadlines = {}, folder, compress = false } = options;
  const direct = await writesDirectly(target, options);
  const server = await startQemuNbd({
    node: nodeOf(target, { direct, compress: compress && size % IMAGE_CLUSTER === 0 }),
    detectZeroes: true,
    ...(folder === undefined ? {} : { folder }),
    ...(signal ? { signal } : {}),
  });
  try {
    const address = { kind: 'unix' as const, path: server.socketPath };
    const into = await NbdClient.connect(address, { deadlines, ...(signal ? { signal } : {}) });
    try {
      requireSize(into.export.size, size, target);
      await fill(sinkOf(into), direct ? {} : { flushEvery: UNFLUSHED });
    } finally {
      await into.close();
    }
    await server.ended();
  } catch (error) {
    throw error instanceof NbdConnectionLost ? await server.explain(error) : error;
  } finally {
    await server.kill();
  }
}

/**
 * Without its parent the image opens fast, and nothing of the parent gets into a cluster. Zeros become zero clusters
 * all the same: an image of this version takes a parent that is not open into account (7.2 and 10.0).
 */
function nodeOf(
  filename: string,
  { direct, compress }: { readonly direct: boolean; readonly compress: boolean },
): BlockNodeSpec {
  const cache = direct ? { cache: { direct } } : {};
  const image = qcow2Node(fileNode(filename, cache), null, cache);
  return compress ? { driver: 'compress', file: image } : image;
}

function requireSize(found: number, disk: number, target: string): void {
  const expected = Math.ceil(disk / SECTOR) * SECTOR;
  if (found === expected) return;
  throw new QmpBackupError('failed', `${target} has ${found} bytes and the exported disk has ${disk}`);
}

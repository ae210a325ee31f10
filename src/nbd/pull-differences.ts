/**
 * Moves into a new image what of a disk differs from its parent, cluster by cluster. Memory is bounded: extents are asked for one
 * part of the disk at a time.
 */
import { joinSpans, type Range, rangesOfDifference, rangesWithout, totalLength } from '../core/extents.js';
import { IMAGE_CLUSTER } from '../core/image-cluster.js';
import type { NbdClient } from './client.js';
import { readExtents } from './meta-contexts.js';
import { pull, type PullOptions, type PullSink, type ToldRanges } from './pull.js';

export interface Parent {
  /** Connected with `base:allocation`, as that of the disk. */
  readonly client: NbdClient;
  /** A shorter way to its bytes, and to zeros beyond its end; false where that leads to none of them. */
  readonly read: (offset: number, into: Buffer) => Promise<boolean>;
  /**
   * What of a part of the disk is to be stored, whatever the parent seems to have there; asked once it was read, or told to be zero.
   * It may reach beyond the part.
   */
  readonly mustStore: (offset: number, length: number) => Promise<readonly Stretch[]>;
}

interface Stretch {
  readonly start: number;
  readonly end: number;
}

export interface Differences {
  /** Bytes that went into the image, those of zeros included. */
  readonly stored: number;
}

/** Bytes of the disk whose extents are known at a time. */
const WINDOW = 1024 * 1024 * 1024;
/** Bytes that are compared at a time; whole clusters. */
const STEP = 1024 * 1024;
const ZEROS = Buffer.alloc(STEP);

/**
 * The disk is read whole but for what both call zero; so is the parent. Where it is shorter than the disk it reads as zeros.
 *
 * @throws as `pull`
 */
export async function pullDifferences(
  disk: NbdClient,
  parent: Parent,
  sink: PullSink,
  options: PullOptions = {},
): Promise<Differences> {
  let [stored, skipped] = [0, 0];
  const idle: Buffer[] = [];

  const compare = async (offset: number, data: Buffer): Promise<void> => {
    const { length } = data;
    const buffer = idle.pop() ?? Buffer.allocUnsafeSlow(STEP);
    const known = buffer.subarray(0, length);
    if (!(await parent.read(offset, known))) await readPadded(parent.client, offset, known);
    const rotten = await parent.mustStore(offset, length);
    const runs = runsOfDifference(
      data,
      known,
      (from, to) => rotten.some(({ start, end }) => start < to && from < end),
      offset,
    );
    idle.push(buffer);
    for (const { start, end, isZero } of runs) {
      if (isZero) await sink.zero(offset + start, end - start);
      else await sink.write(offset + start, data.subarray(start, end));
      stored += end - start;
    }
  };
  const comparing: PullSink = {
    write: compare,
    zero: async (offset, length) => {
      for (let at = 0; at < length; at += STEP) {
        await compare(offset + at, ZEROS.subarray(0, Math.min(STEP, length - at)));
      }
    },
    flush: sink.flush,
  };
  const { onProgress } = options;
  const ranges = differencesOf(disk, parent, (bytes) => (skipped += bytes));
  await pull(disk, ranges, comparing, {
    ...{ ...options, pieceSize: STEP },
    onProgress: onProgress && (({ done, total }) => onProgress({ done: done + skipped, total })),
  });
  return { stored };
}

/** What may differ, window by window; tells how much of each does not. */
function differencesOf(disk: NbdClient, parent: Parent, onSkipped: (bytes: number) => void): ToldRanges {
  const { size } = disk.export;
  return {
    total: size,
    ranges: (async function* (): AsyncGenerator<Range, void, undefined> {
      for (let offset = 0; offset < size; offset += WINDOW) {
        const window = { offset, length: Math.min(WINDOW, size - offset) };
        const [here, there] = await Promise.all([zeroIn(disk, window), zeroIn(parent.client, window)]);
        const ranges = await withRotten(parent, { disk: here, parent: there }, window);
        onSkipped(window.length - totalLength(ranges));
        yield* ranges;
      }
    })(),
  };
}

/**
 * What is zero in both is not read. But the parent may tell so of clusters of data that are holes in its file, and the piece that
 * holds them may have rotted.
 */
async function withRotten(
  { mustStore }: Pick<Parent, 'mustStore'>,
  zero: { readonly disk: readonly Window[]; readonly parent: readonly Window[] },
  window: Window,
): Promise<readonly Range[]> {
  const ranges = rangesOfDifference(zero, window, IMAGE_CLUSTER);
  const rotten: Window[] = [];
  for (const { offset, length } of rangesWithout([{ ...window, kind: 'zero' }], ranges)) {
    for (const { start, end } of await mustStore(offset, length)) rotten.push({ offset: start, length: end - start });
  }
  if (rotten.length === 0) return ranges;
  const proved = rangesWithout(
    zero.parent.map((each) => ({ ...each, kind: 'zero' })),
    joinSpans(rotten),
  );
  return rangesOfDifference({ disk: zero.disk, parent: proved }, window, IMAGE_CLUSTER);
}

interface Window {
  readonly offset: number;
  readonly length: number;
}

/** What is beyond the end of an export is zero. */
async function zeroIn(client: NbdClient, { offset, length }: Window): Promise<readonly Window[]> {
  const end = Math.min(offset + length, client.export.size);
  const beyond = Math.max(offset, end);
  const rest = offset + length - beyond;
  const { zero } =
    end > offset ? await readExtents(client, undefined, undefined, { offset, length: end - offset }) : NONE;
  return rest > 0 ? [...zero, { offset: beyond, length: rest }] : zero;
}

const NONE = { zero: [] } as const;

async function readPadded(client: NbdClient, offset: number, into: Buffer): Promise<void> {
  const there = Math.max(0, Math.min(into.length, client.export.size - offset));
  if (there > 0) await client.read(offset, into.subarray(0, there));
  into.fill(0, there);
}

interface Run {
  readonly start: number;
  readonly end: number;
  /** All of it is zero. */
  readonly isZero: boolean;
}

/** The clusters that differ, or must be stored; neighbours are one. Positions in `data`, which begins at `offset` of the disk. */
function runsOfDifference(
  data: Buffer,
  known: Buffer,
  mustStore: (start: number, end: number) => boolean,
  offset: number,
): readonly Run[] {
  const runs: Run[] = [];
  for (let start = 0; start < data.length; start += IMAGE_CLUSTER) {
    const end = Math.min(data.length, start + IMAGE_CLUSTER);
    if (!mustStore(offset + start, offset + end) && data.compare(known, start, end, start, end) === 0) continue;
    const last = runs.at(-1);
    const isZero = data.compare(ZEROS, 0, end - start, start, end) === 0;
    if (last?.end === start && last.isZero === isZero) runs[runs.length - 1] = { ...last, end };
    else runs.push({ start, end, isZero });
  }
  return runs;
}

import { stat, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { type Span, totalLength } from '../core/extents.js';
import { allOf } from '../flow/all-of.js';
import { unwinding } from '../flow/unwind.js';
import { inLanes } from '../flow/lanes.js';
import { cloneFile, copyRange } from '../host/copy-file.js';
import { syncFile } from '../host/durable.js';
import { fileError } from '../host/file-errors.js';
import { HASH_THREADS } from '../host/hash-threads.js';
import { dropFromCache } from '../host/page-cache.js';
import { withClient } from './with-client.js';
import { ALLOCATION, dirtyBitmapContext, readExtents } from '../nbd/meta-contexts.js';
import { pull, sinkOf } from '../nbd/pull.js';
import type { CheckReport } from '../qemu-tools/image-info.js';
import { check } from '../qemu-tools/steps.js';
import type { KnownImage } from '../repository/seal-file.js';
import { type MergeDaemon, type MergedImage, startMergeDaemon } from '../storage-daemon/merge-daemon.js';
import type { FillOptions, ImageToFill } from './image-to-fill.js';
import type { MovableFull } from './movable-full.js';
import { proveMoved } from './prove-moved.js';

/**
 * The state of the last file of a line: the increments are written into a copy of the FULL's file, which on a file system with
 * reflinks takes no time and no room. All of it that was copied or written is proved; what the copy shares is as it was.
 *
 * @throws QmpBackupError `damaged` where the FULL is, in a part that was copied or changed; `failed` in QEMU's words
 */
export async function moveFull(
  { dir, partial }: Pick<ImageToFill, 'dir' | 'partial'>,
  moved: MovableFull,
  { signal, onProgress }: FillOptions,
): Promise<KnownImage> {
  const path = join(dir, partial);
  const old = join(dir, moved.full.file);
  const part = partsOf(onProgress);
  const shared = await cloneFile(old, path, signal);
  if (!shared) await copyWhole(old, path, moved.full.size, { signal, onProgress: part(0, 40) });
  return unwinding(async (unwind) => {
    const slices = moved.slices.map(({ files }) => files.map((file) => join(dir, file)));
    const daemon = await startMergeDaemon({ slices, into: path }, { what: `merge into ${partial}`, signal });
    unwind.defer(() => daemon.close());
    await writeSlices(daemon, moved, { signal, onProgress: part(shared ? 0 : 40, 60) });
    const merged = await daemon.finish();
    const [written, report] = await allOf([writtenSpans(merged, signal), cutToEnd(path, signal)]);
    await syncFile(path);
    // What the storage has is proved, and not what is still in memory of its writing.
    await dropFromCache(path);
    const image = { old, path, partial, shared, written, slices: daemon.slices, image: await merged.reopen() };
    return { report, digest: await proveMoved(moved, image, { signal, onProgress: part(60, 100) }) };
  });
}

function partsOf(onProgress: (percent: number) => void): (from: number, to: number) => (percent: number) => void {
  return (from, to) => (percent) => onProgress(from + (percent * (to - from)) / 100);
}

/** Bytes that one program copies. */
const COPY_STEP = 256 * 1024 * 1024;

async function copyWhole(
  from: string,
  to: string,
  size: number,
  { signal, onProgress }: Pick<FillOptions, 'signal' | 'onProgress'>,
): Promise<void> {
  await truncate(to, size).catch((error: unknown) => {
    throw fileError('write', to, error);
  });
  const steps = Array.from({ length: Math.ceil(size / COPY_STEP) }, (_, index) => index * COPY_STEP);
  let done = 0;
  await inLanes(steps, HASH_THREADS, async (offset) => {
    const length = Math.min(COPY_STEP, size - offset);
    await copyRange(from, to, { offset, length }, signal);
    done += length;
    onProgress((done / size) * 100);
  });
}

async function writeSlices(
  { slices, into }: MergeDaemon,
  moved: MovableFull,
  { signal, onProgress }: Pick<FillOptions, 'signal' | 'onProgress'>,
): Promise<void> {
  const total = moved.slices.reduce((sum, { ranges }) => sum + totalLength(ranges), 0);
  let before = 0;
  await withClient(into, {}, signal, async (target) => {
    for (const [index, { ranges }] of moved.slices.entries()) {
      const source = slices[index];
      if (!source || ranges.length === 0) continue;
      await withClient(source, {}, signal, (from) =>
        pull(from, ranges, sinkOf(target), {
          signal,
          onProgress: ({ done }) => onProgress(((before + done) / total) * 100),
        }),
      );
      before += totalLength(ranges);
    }
  });
}

async function writtenSpans({ file }: MergedImage, signal: AbortSignal): Promise<readonly Span[]> {
  const contexts = [ALLOCATION, dirtyBitmapContext(file.bitmap)];
  return withClient(file, { contexts }, signal, async (client) => (await readExtents(client, file.bitmap)).dirty ?? []);
}

/** Where its last clusters are free now, they go: nothing may be behind the end of a sealed image. */
async function cutToEnd(path: string, signal: AbortSignal): Promise<CheckReport> {
  const report = await check(path, { signal });
  try {
    const { size } = await stat(path);
    if (report.imageEnd !== null && size > report.imageEnd) await truncate(path, report.imageEnd);
  } catch (error) {
    throw fileError('write', path, error);
  }
  return report;
}

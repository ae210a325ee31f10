import { fileNode, qcow2Node } from '../core/block-node.js';
import { joinSpans, type Range, roundOut, type Span, totalLength } from '../core/extents.js';
import { IMAGE_CLUSTER } from '../core/image-cluster.js';
import { syncFile } from '../host/durable.js';
import type { NbdClient } from '../nbd/client.js';
import { NbdConnectionLost } from '../nbd/errors.js';
import { pull, sinkOf } from '../nbd/pull.js';
import { nodeOf, viewOf } from '../qemu-tools/image-view.js';
import { type QemuNbd, startQemuNbd } from '../qemu-tools/qemu-nbd.js';
import { compare, map } from '../qemu-tools/steps.js';
import {
  type FillOptions,
  heldIn,
  type ImageToFill,
  type Proof,
  rangesIn,
  slicesOf,
  wrongResult,
} from './image-to-fill.js';
import { withClient } from './with-client.js';

/**
 * What several increments hold together, in one: of each cluster what the newest says that has it, zeros too, which hide what is
 * below. What they build on is not opened, so that the work is that of their own data. Resolves to the last part of its proof.
 *
 * @throws QmpBackupError `failed`, in the words of the programs; so does the proof
 */
export async function fillIncrement(image: ImageToFill, { signal, onProgress, atOnce }: FillOptions): Promise<Proof> {
  const { dir, partial, files } = image;
  const path = `${dir}/${partial}`;
  const long = { cwd: dir, signal };
  const own = viewOf([partial]);
  const sizes = files.map(({ virtualSize }) => virtualSize);
  // The last cluster of a disk that grew later is a whole one by now.
  const shape = { size: Math.max(...sizes), clusterSize: IMAGE_CLUSTER };
  const clustersOf = (spans: readonly Span[]): readonly Span[] => roundOut(joinSpans(spans), shape);
  const slices = slicesOf(files, atOnce);
  let prove: Proof = () => Promise.resolve();
  for (const [index, slice] of slices.entries()) {
    await prove();
    const before = index === 0 ? [] : heldIn(await map(own, long));
    const extents = await map(viewOf(slice), long);
    const held = heldIn(extents);
    refuseParts(partial, held, new Set(sizes));
    const last = extents.at(-1);
    const ranges = rangesIn(extents, last ? last.start + last.length : 0);
    await copyRanges(image, slice, ranges, signal, (percent) => onProgress((index * 100 + percent) / slices.length));
    await syncFile(path);
    // Bytes, and which clusters there are: in zeros that hide nothing a comparison sees no difference.
    const after = heldIn(await map(own, long));
    if (!isSame(clustersOf(after), clustersOf([...before, ...held]))) {
      throw wrongResult(partial, 'it does not hold the clusters that were merged');
    }
    prove = async () => {
      const same = await compare(viewOf([partial, ...slice]), own, long);
      if (!same) throw wrongResult(partial, `it does not hold what ${slice.at(-1)} does`);
    };
  }
  return prove;
}

async function copyRanges(
  { dir, partial, compress }: ImageToFill,
  files: readonly string[],
  ranges: readonly Range[],
  signal: AbortSignal,
  onProgress: (percent: number) => void,
): Promise<void> {
  const total = totalLength(ranges);
  if (total === 0) return;
  const image = qcow2Node(fileNode(`${dir}/${partial}`), null);
  const node = compress ? { driver: 'compress', file: image } : image;
  await serving({ node: nodeOf(files.map((file) => `${dir}/${file}`)), readOnly: true, signal }, (from) =>
    serving({ node, detectZeroes: true, signal }, (into) =>
      pull(from, ranges, sinkOf(into), { signal, onProgress: ({ done }) => onProgress((done / total) * 100) }),
    ),
  );
}

/** Hands `use` a client of an image that is served meanwhile; when this resolves, it is closed and written. */
async function serving(
  options: Parameters<typeof startQemuNbd>[0] & { readonly signal: AbortSignal },
  use: (client: NbdClient) => Promise<void>,
): Promise<void> {
  const server: QemuNbd = await startQemuNbd(options);
  try {
    await withClient({ address: { kind: 'unix', path: server.socketPath }, exportName: '' }, {}, options.signal, use);
    await server.ended();
  } catch (error) {
    throw error instanceof NbdConnectionLost ? await server.explain(error) : error;
  } finally {
    await server.kill();
  }
}

/** A part of a cluster of the new image would hide what is below the rest of it. */
function refuseParts(partial: string, held: readonly Span[], sizes: ReadonlySet<number>): void {
  const ends = (at: number): boolean => at % IMAGE_CLUSTER === 0 || sizes.has(at);
  const odd = held.find(({ offset, length }) => !ends(offset) || !ends(offset + length));
  if (odd) throw wrongResult(partial, `a part of a cluster was to be written, at byte ${odd.offset}`);
}

function isSame(a: readonly Span[], b: readonly Span[]): boolean {
  return (
    a.length === b.length && a.every(({ offset, length }, at) => b[at]?.offset === offset && b[at].length === length)
  );
}

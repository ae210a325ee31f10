/**
 * The meta contexts that a backup reads, and the walk over all extents of a disk. Servers cut their answers where they
 * like, and at different places for two contexts of one answer: each is followed by itself.
 */
import type { Span } from '../core/extents.js';
import type { NbdClient } from './client.js';

/** Bit 1 (2): the range reads as zeros. Bit 0 says only whether it takes space, which a backup does not ask. */
export const ALLOCATION = 'base:allocation';
const READS_AS_ZERO = 2;

/** Bit 0 (1): the range was written since the bitmap began. */
export function dirtyBitmapContext(name: string): string {
  return `qemu:dirty-bitmap:${name}`;
}

/**
 * In the place of a bitmap's name: what the image that is served holds itself, zeros too, and not an image below it. The server has to
 * be told to tell it. In a chain that is served without the images it builds on, that is what any of its layers holds.
 */
export const OWN_CLUSTERS = 'qemu:allocation-depth';

/** That of a bitmap, or of `OWN_CLUSTERS`. */
export function changesContext(bitmap: string): string {
  return bitmap === OWN_CLUSTERS ? OWN_CLUSTERS : dirtyBitmapContext(bitmap);
}

/** A bitmap has one bit; a layer is told by its number, from 1. */
const CHANGED = ~0;

/** Below 2^32, and a multiple of every block size (at most 64 KiB). */
const LONGEST_QUESTION = 0xffff_0000;

export interface DiskExtents {
  /** What reads as zeros. In order, disjoint, joined where they touch; so is `dirty`. */
  readonly zero: readonly Span[];
  /** What the bitmap calls dirty; undefined where no bitmap was asked for. */
  readonly dirty: readonly Span[] | undefined;
}

/**
 * Every extent of the export, by `base:allocation` and, where it is given, a dirty bitmap. The client must have been
 * connected with these contexts. `onPosition` hears, after each answer, up to which byte they are known. `within`: a part of it.
 *
 * @throws as the client's `blockStatus`
 */
export async function readExtents(
  client: NbdClient,
  bitmap?: string,
  onPosition?: (position: number) => void,
  within: Span = { offset: 0, length: client.export.size },
): Promise<DiskExtents> {
  const size = within.offset + within.length;
  const walks = [new Walk(ALLOCATION, READS_AS_ZERO, within.offset)];
  if (bitmap !== undefined) walks.push(new Walk(changesContext(bitmap), CHANGED, within.offset));
  for (;;) {
    const from = Math.min(...walks.map((walk) => walk.position));
    if (from >= size) break;
    const status = await client.blockStatus(from, Math.min(LONGEST_QUESTION, size - from));
    for (const walk of walks) {
      let offset = from;
      for (const { length, flags } of status.get(walk.context) ?? []) {
        walk.add(offset, Math.min(offset + length, size), flags);
        offset += length;
      }
    }
    onPosition?.(from);
  }
  const [zero, dirty] = walks;
  return { zero: zero?.spans ?? [], dirty: dirty?.spans };
}

/** The spans of one context that have any of these bits set, up to `position`. */
class Walk {
  readonly spans: Span[] = [];
  readonly context: string;
  readonly #bits: number;
  position: number;

  constructor(context: string, bits: number, position: number) {
    this.position = position;
    this.context = context;
    this.#bits = bits;
  }

  /** What was told before is not told again. */
  add(start: number, end: number, flags: number): void {
    const from = Math.max(start, this.position);
    if (end <= from) return;
    this.position = end;
    if ((flags & this.#bits) === 0) return;
    const last = this.spans.at(-1);
    if (last !== undefined && last.offset + last.length === from) {
      this.spans[this.spans.length - 1] = { offset: last.offset, length: end - last.offset };
    } else {
      this.spans.push({ offset: from, length: end - from });
    }
  }
}

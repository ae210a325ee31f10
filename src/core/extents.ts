/**
 * Which parts of a disk go into a new image, and how. The new image keeps whole clusters: what is written into one of
 * them hides all that the parent has there, so a cluster of which any byte is dirty is taken whole.
 */

/** A run of bytes. Lists of them are in order and disjoint. */
export interface Span {
  readonly offset: number;
  readonly length: number;
}

/** `zero`: every byte of it reads as zero, and must be made to read so. */
export interface Range extends Span {
  readonly kind: 'data' | 'zero';
}

export interface ImageShape {
  /** Bytes of the disk; need not be a multiple of anything. */
  readonly size: number;
  /** Of the new image, in bytes. */
  readonly clusterSize: number;
}

/**
 * An increment: the dirty clusters and nothing else. Those that read as zeros in whole are `zero`; where only a part
 * does, it is data.
 */
export function rangesOfIncrement(
  extents: { readonly dirty: readonly Span[]; readonly zero: readonly Span[] },
  shape: ImageShape,
): readonly Range[] {
  const wanted = roundOut(extents.dirty, shape);
  const zero = roundIn(extents.zero, shape);
  return [
    ...intersection(wanted, zero).map((span): Range => ({ ...span, kind: 'zero' })),
    ...intersection(wanted, complement(zero, shape.size)).map((span): Range => ({ ...span, kind: 'data' })),
  ].sort((a, b) => a.offset - b.offset);
}

/**
 * What of a part of the disk may differ from its parent: all but clusters that read as zeros in both. Those that do so in the disk
 * are `zero`. `zero` spans lie within the part.
 */
export function rangesOfDifference(
  zero: { readonly disk: readonly Span[]; readonly parent: readonly Span[] },
  part: Span,
  clusterSize: number,
): readonly Range[] {
  const shape = { size: part.length, clusterSize };
  const inPart = (spans: readonly Span[]): readonly Span[] =>
    roundIn(
      spans.map(({ offset, length }) => ({ offset: offset - part.offset, length })),
      shape,
    );
  const disk = inPart(zero.disk);
  const dirty = complement(intersection(disk, inPart(zero.parent)), part.length);
  return rangesOfIncrement({ dirty, zero: disk }, shape).map((each) => ({
    ...each,
    offset: each.offset + part.offset,
  }));
}

/** A whole disk into a new image that has no parent: what reads as zeros is left out, for there it does so already. */
export function rangesOfFull(zero: readonly Span[], shape: ImageShape): readonly Range[] {
  return complement(roundIn(zero, shape), shape.size).map((span): Range => ({ ...span, kind: 'data' }));
}

/** What of the ranges, which are in order, is not in `spans`. */
export function rangesWithout(ranges: readonly Range[], spans: readonly Span[]): readonly Range[] {
  const last = ranges.at(-1);
  const rest = complement(spans, last ? last.offset + last.length : 0);
  const cut = (kind: Range['kind']): readonly Range[] => {
    const ofKind = ranges.filter((range) => range.kind === kind);
    return intersection(ofKind, rest).map((span): Range => ({ ...span, kind }));
  };
  return [...cut('data'), ...cut('zero')].sort((a, b) => a.offset - b.offset);
}

/** In order, disjoint and joined where they touch, of spans in any order. */
export function joinSpans(spans: readonly Span[]): readonly Span[] {
  const joined: Span[] = [];
  for (const { offset, length } of spans.toSorted((a, b) => a.offset - b.offset))
    append(joined, offset, offset + length);
  return joined;
}

export function totalLength(spans: readonly Span[]): number {
  return spans.reduce((sum, { length }) => sum + length, 0);
}

/** The clusters that hold any byte of the spans, which are in order, joined where they touch, up to the end of the disk. */
export function roundOut(spans: readonly Span[], { size, clusterSize }: ImageShape): readonly Span[] {
  const rounded: Span[] = [];
  for (const { offset, length } of spans) {
    const start = offset - (offset % clusterSize);
    const end = Math.min(size, Math.ceil((offset + length) / clusterSize) * clusterSize);
    if (length > 0 && start < end) append(rounded, start, end);
  }
  return rounded;
}

/** The clusters all of whose bytes are in the spans; the last one of the disk may be a part of one. */
function roundIn(spans: readonly Span[], { size, clusterSize }: ImageShape): readonly Span[] {
  const joined: Span[] = [];
  for (const { offset, length } of spans) append(joined, offset, Math.min(size, offset + length));
  return joined.flatMap(({ offset, length }) => {
    const start = Math.ceil(offset / clusterSize) * clusterSize;
    const end = offset + length === size ? size : offset + length - ((offset + length) % clusterSize);
    return start < end ? [{ offset: start, length: end - start }] : [];
  });
}

/** Joins with the last span where they touch or overlap. */
function append(spans: Span[], start: number, end: number): void {
  const last = spans.at(-1);
  if (last === undefined || last.offset + last.length < start) {
    if (start < end) spans.push({ offset: start, length: end - start });
  } else {
    spans[spans.length - 1] = { offset: last.offset, length: Math.max(last.offset + last.length, end) - last.offset };
  }
}

function complement(spans: readonly Span[], size: number): readonly Span[] {
  const rest: Span[] = [];
  let at = 0;
  for (const { offset, length } of spans) {
    append(rest, at, offset);
    at = offset + length;
  }
  append(rest, at, size);
  return rest;
}

function intersection(a: readonly Span[], b: readonly Span[]): readonly Span[] {
  const common: Span[] = [];
  let [i, j] = [0, 0];
  for (;;) {
    const [one, other] = [a[i], b[j]];
    if (one === undefined || other === undefined) return common;
    const start = Math.max(one.offset, other.offset);
    const end = Math.min(one.offset + one.length, other.offset + other.length);
    if (start < end) common.push({ offset: start, length: end - start });
    if (one.offset + one.length < other.offset + other.length) i += 1;
    else j += 1;
  }
}

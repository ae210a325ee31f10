import type { Span } from '../core/extents.js';

/** Where a copy goes that is no point: its disks raw, with holes, one after the other, and then what belongs to them. */
export interface RawSink {
  /** A disk of `size` bytes, of which all but the spans is zero. */
  readonly disk: (disk: string, shape: RawShape) => Promise<RawDisk>;
  /** A small file; `path` is relative. */
  readonly file: (path: string, bytes: Buffer) => Promise<void>;
  /** All is there. What was cut before has no end, or no name. */
  readonly end: () => Promise<void>;
}

export interface RawShape {
  readonly size: number;
  /** In order and disjoint. */
  readonly spans: readonly Span[];
}

export interface RawDisk {
  /** Bytes of the spans, in their order. The buffer is the caller's again when it resolves. */
  readonly write: (offset: number, bytes: Buffer) => Promise<void>;
  readonly end: () => Promise<void>;
}

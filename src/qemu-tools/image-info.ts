import { QmpBackupError } from '../errors.js';

/** What `qemu-img --output=json` tells, reduced to what is used here. Sizes are bytes. */
export interface ImageInfo {
  readonly format: string;
  readonly virtualSize: number;
  /** Bytes the file takes on disk. */
  readonly allocated: number;
  readonly backingFile: string | null;
  /** Everything that qemu-img said. */
  readonly all: unknown;
}

export interface CheckReport {
  /** Clusters that are used and not counted right: data is or will be lost. */
  readonly corruptions: number;
  /** Clusters that are counted and not used: space is wasted, nothing else. */
  readonly leaks: number;
  /** Places that could not be checked. */
  readonly checkErrors: number;
  readonly leaksFixed: number;
  /** Where the last cluster that is counted ends, in bytes; null where qemu-img does not tell. */
  readonly imageEnd: number | null;
}

export interface MapExtent {
  readonly start: number;
  readonly length: number;
  /** How many files below the top one the data is. */
  readonly depth: number;
  readonly present: boolean;
  readonly zero: boolean;
  readonly data: boolean;
}

export function parseImageInfo(text: string): ImageInfo {
  const all = asRecord(parse(text));
  return {
    format: textOf(all, 'format') ?? 'unknown',
    virtualSize: numberOf(all, 'virtual-size'),
    allocated: numberOf(all, 'actual-size'),
    backingFile: textOf(all, 'backing-filename') ?? null,
    all,
  };
}

export function parseCheckReport(text: string): CheckReport {
  const all = asRecord(parse(text));
  // Counters of things that were not found are left out by qemu-img; check-errors is always there.
  if (typeof all['check-errors'] !== 'number') throw unexpected(text);
  return {
    corruptions: numberOf(all, 'corruptions'),
    leaks: numberOf(all, 'leaks'),
    checkErrors: numberOf(all, 'check-errors'),
    leaksFixed: numberOf(all, 'leaks-fixed'),
    imageEnd: typeof all['image-end-offset'] === 'number' ? all['image-end-offset'] : null,
  };
}

export function parseMap(text: string): readonly MapExtent[] {
  const extents = parse(text);
  if (!Array.isArray(extents)) throw unexpected(text);
  return extents.map((each) => {
    const extent = asRecord(each);
    return {
      start: numberOf(extent, 'start'),
      length: numberOf(extent, 'length'),
      depth: numberOf(extent, 'depth'),
      present: extent.present === true,
      zero: extent.zero === true,
      data: extent.data === true,
    };
  });
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch (error) {
    throw unexpected(text, error);
  }
}

function asRecord(value: unknown): Readonly<Record<string, unknown>> {
  if (typeof value !== 'object' || value === null) throw unexpected(String(value));
  return value as Readonly<Record<string, unknown>>;
}

function numberOf(record: Readonly<Record<string, unknown>>, key: string): number {
  const value = record[key];
  return typeof value === 'number' ? value : 0;
}

function textOf(record: Readonly<Record<string, unknown>>, key: string): string | undefined {
  const value = record[key];
  return typeof value === 'string' ? value : undefined;
}

function unexpected(text: string, cause?: unknown): QmpBackupError {
  const said = text.trim().slice(0, 200);
  return new QmpBackupError('failed', `qemu-img gave an answer of unknown shape: ${said === '' ? 'nothing' : said}`, {
    cause,
  });
}

import { QmpBackupError } from '../errors.js';

/**
 * Reads a qcow2 header by ourselves, so that an image of unknown origin is judged before any QEMU program opens it and
 * follows what it names. Offsets after docs/interop/qcow2.txt of QEMU. Whatever cannot be read to the end is damage.
 */
export interface Qcow2Header {
  readonly version: 2 | 3;
  /** Size of the disk in bytes. */
  readonly virtualSize: number;
  /** Bytes. */
  readonly clusterSize: number;
  /** The backing file as the header names it, never resolved; null when it has none. */
  readonly backingFile: string | null;
  /** The format that the header gives for the backing file; null lets QEMU guess. */
  readonly backingFormat: string | null;
  readonly encrypted: boolean;
  /** Guest data is in another file (incompatible feature bit 2). */
  readonly dataFile: boolean;
  /** The name of that other file, which may be there without the bit. */
  readonly externalDataFileName: string | null;
  /** The whole field: bit 0 dirty, 1 corrupt, 2 data file, 3 compression type, 4 extended L2. */
  readonly incompatibleFeatures: bigint;
  /** What programs that do not know of it may drop: bit 0 dirty bitmaps in the image. */
  readonly autoclearFeatures: bigint;
  /** Refcounts may be behind (lazy refcounts, not closed). */
  readonly dirty: boolean;
  readonly corrupt: boolean;
  readonly compressionType: 'zlib' | 'zstd' | 'unknown';
  /** Internal snapshots. */
  readonly snapshots: number;
}

/** As much of a file's beginning as `parseQcow2Header` needs, in bytes: what lies further out is refused. */
export const QCOW2_HEADER_BYTES = 65_536;

const MAGIC = 0x514649fb;

/** Bytes that tell a qcow2 image and its version. */
export const QCOW2_START = 8;

export function isQcow2(start: Uint8Array): boolean {
  return start.byteLength >= 4 && new DataView(start.buffer, start.byteOffset, start.byteLength).getUint32(0) === MAGIC;
}

/** What qemu-img calls `compat`, by the first `QCOW2_START` bytes of an image; null for what is no qcow2 known. */
export function compatOfQcow2(start: Uint8Array): '0.10' | '1.1' | null {
  if (!isQcow2(start) || start.byteLength < QCOW2_START) return null;
  const version = new DataView(start.buffer, start.byteOffset, start.byteLength).getUint32(4);
  return version === 2 ? '0.10' : version === 3 ? '1.1' : null;
}
const VERSION_2_LENGTH = 72;
const VERSION_3_LENGTH = 104;
const COMPRESSION_TYPE_OFFSET = 104;
const BACKING_FORMAT_EXTENSION = 0xe2792aca;
const DATA_FILE_EXTENSION = 0x44415441;
/** QEMU's own limit for the name, in bytes. */
const MAX_BACKING_NAME = 1023;

/**
 * The header of the qcow2 image that begins with `bytes` (its first `QCOW2_HEADER_BYTES`, or all of a shorter file).
 *
 * @throws QmpBackupError `damaged`: not qcow2, an unknown version, cut short, or names and extensions that overlap
 * their limits. The message has no file name; the caller knows it.
 */
export function parseQcow2Header(bytes: Uint8Array): Qcow2Header {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.byteLength < QCOW2_START || !isQcow2(bytes)) throw damaged('it is not a qcow2 image');
  const version = view.getUint32(4);
  if (version !== 2 && version !== 3) throw damaged(`it is qcow2 version ${version}, known are 2 and 3`);
  const fixed = version === 2 ? VERSION_2_LENGTH : VERSION_3_LENGTH;
  if (bytes.byteLength < fixed) throw damaged('its qcow2 header is cut short');
  const headerLength = version === 2 ? VERSION_2_LENGTH : view.getUint32(100);
  if (headerLength < fixed || headerLength > bytes.byteLength) {
    throw damaged(`its qcow2 header claims a length of ${headerLength} bytes`);
  }

  const clusterBits = view.getUint32(20);
  if (clusterBits < 9 || clusterBits > 21) throw damaged(`its qcow2 header claims 2^${clusterBits}-byte clusters`);
  const clusterSize = 2 ** clusterBits;
  const incompatibleFeatures = version === 2 ? 0n : view.getBigUint64(72);
  const backing = backingName(bytes, view, clusterSize);
  const extensions = readExtensions(bytes, view, headerLength, backing ? backing.offset : clusterSize);

  return {
    version,
    virtualSize: safeNumber(view.getBigUint64(24), 'disk size'),
    clusterSize,
    backingFile: backing?.name ?? null,
    backingFormat: extensions.get(BACKING_FORMAT_EXTENSION) ?? null,
    encrypted: view.getUint32(32) !== 0,
    dataFile: (incompatibleFeatures & 4n) !== 0n,
    externalDataFileName: extensions.get(DATA_FILE_EXTENSION) ?? null,
    incompatibleFeatures,
    autoclearFeatures: version === 2 ? 0n : view.getBigUint64(88),
    dirty: (incompatibleFeatures & 1n) !== 0n,
    corrupt: (incompatibleFeatures & 2n) !== 0n,
    compressionType: compressionType(view, incompatibleFeatures, headerLength),
    snapshots: view.getUint32(60),
  };
}

function backingName(
  bytes: Uint8Array,
  view: DataView,
  clusterSize: number,
): { readonly name: string; readonly offset: number } | undefined {
  const offset = safeNumber(view.getBigUint64(8), 'backing file offset');
  if (offset === 0) return undefined;
  const length = view.getUint32(16);
  if (offset > clusterSize || length > Math.min(MAX_BACKING_NAME, clusterSize - offset)) {
    throw damaged('its backing file name lies outside the header');
  }
  if (offset + length > bytes.byteLength) throw damaged('its backing file name is cut short or too far out');
  return { name: textOf(bytes, offset, length), offset };
}

/** The two extensions that name something, by type; of one that occurs twice the last, as QEMU takes it. */
function readExtensions(bytes: Uint8Array, view: DataView, start: number, end: number): ReadonlyMap<number, string> {
  const found = new Map<number, string>();
  // Every round moves on by at least the eight bytes of an extension's own header, so this ends.
  for (let offset = start; offset < end;) {
    if (offset + 8 > bytes.byteLength) throw damaged('its header extensions are cut short or too far out');
    const type = view.getUint32(offset);
    const length = view.getUint32(offset + 4);
    if (type === 0) break;
    const data = offset + 8;
    if (data + length > end) throw damaged('a header extension is larger than the header');
    if (data + length > bytes.byteLength) throw damaged('its header extensions are cut short or too far out');
    if (type === BACKING_FORMAT_EXTENSION || type === DATA_FILE_EXTENSION) {
      found.set(type, textOf(bytes, data, length));
    }
    offset = data + Math.ceil(length / 8) * 8;
  }
  return found;
}

function compressionType(view: DataView, features: bigint, headerLength: number): Qcow2Header['compressionType'] {
  // The byte means something only with its feature bit; without the bit it is zlib (or the header ends before it).
  if ((features & 8n) === 0n) return 'zlib';
  if (headerLength <= COMPRESSION_TYPE_OFFSET) throw damaged('its qcow2 header ends before its compression type');
  return view.getUint8(COMPRESSION_TYPE_OFFSET) === 1 ? 'zstd' : 'unknown';
}

/** Kept as it is, NUL and byte order mark included: a doctored name must not come to equal an honest one. */
function textOf(bytes: Uint8Array, offset: number, length: number): string {
  return new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes.subarray(offset, offset + length));
}

function safeNumber(value: bigint, what: string): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw damaged(`its qcow2 header claims an impossible ${what}`);
  return Number(value);
}

function damaged(why: string): QmpBackupError {
  return new QmpBackupError('damaged', why);
}

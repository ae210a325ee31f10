import { QmpBackupError } from '../errors.js';
import { IMAGE_CLUSTER } from './image-cluster.js';

/**
 * An empty qcow2 image, byte for byte as `qemu-img create -u` makes it (7.2, 10.0: `test/contract/empty-qcow2.test.ts`), which takes
 * the start of a program for each disk. Offsets after docs/interop/qcow2.txt of QEMU.
 */
export interface EmptyQcow2 {
  /** Bytes of the disk, rounded up to sectors. */
  readonly size: number;
  /** A qcow2 file, as the header shall name it; nobody opens it. */
  readonly backing?: string | undefined;
  readonly compressionType?: 'zlib' | 'zstd' | undefined;
}

/** What is in the file at some offsets; everywhere else, and up to `length`, it has zeros. */
export interface FileContent {
  /** Bytes. */
  readonly length: number;
  readonly parts: readonly { readonly offset: number; readonly bytes: Uint8Array }[];
}

const SECTOR = 512;
const REFCOUNT_TABLE = IMAGE_CLUSTER;
const REFCOUNT_BLOCK = 2 * IMAGE_CLUSTER;
const L1_TABLE = 3 * IMAGE_CLUSTER;
/** Bytes of the disk below one entry of the L1 table: a cluster full of entries of eight bytes, a cluster each. */
const PER_L1_ENTRY = (IMAGE_CLUSTER / 8) * IMAGE_CLUSTER;
const HEADER_LENGTH = 112;
/** QEMU's own limits, in bytes. */
const MAX_L1 = 32 * 1024 * 1024;
const MAX_NAME = 1023;

/** @throws QmpBackupError `failed` for a size or a name that no qcow2 image can have */
export function emptyQcow2({ size, backing, compressionType }: EmptyQcow2): FileContent {
  const diskSize = Math.ceil(size / SECTOR) * SECTOR;
  const entries = Math.ceil(diskSize / PER_L1_ENTRY);
  if (entries * 8 > MAX_L1) throw impossible(`a disk of ${size} bytes is too large for a qcow2 image`);
  const name = new TextEncoder().encode(backing ?? '');
  if (name.length > MAX_NAME) throw impossible(`a name is too long for the header of a qcow2 image: ${backing}`);

  const extensions = [
    ...(backing === undefined ? [] : [extension(BACKING_FORMAT, new TextEncoder().encode('qcow2'))]),
    extension(FEATURE_NAMES, featureNames()),
    extension(END, new Uint8Array()),
  ];
  const nameOffset = HEADER_LENGTH + extensions.reduce((sum, { length }) => sum + length, 0);
  const header = new DataView(new ArrayBuffer(HEADER_LENGTH));
  header.setUint32(0, 0x514649fb);
  header.setUint32(4, 3);
  if (backing !== undefined) {
    header.setBigUint64(8, BigInt(nameOffset));
    header.setUint32(16, name.length);
  }
  header.setUint32(20, Math.log2(IMAGE_CLUSTER));
  header.setBigUint64(24, BigInt(diskSize));
  header.setUint32(36, entries);
  header.setBigUint64(40, BigInt(entries === 0 ? 0 : L1_TABLE));
  header.setBigUint64(48, BigInt(REFCOUNT_TABLE));
  header.setUint32(56, 1);
  if (compressionType === 'zstd') header.setBigUint64(72, COMPRESSION_TYPE_BIT);
  header.setUint32(96, REFCOUNT_ORDER);
  header.setUint32(100, HEADER_LENGTH);
  header.setUint8(104, compressionType === 'zstd' ? 1 : 0);

  const refcountBlock = new DataView(new ArrayBuffer(8));
  refcountBlock.setBigUint64(0, BigInt(REFCOUNT_BLOCK));
  return {
    length: L1_TABLE + entries * 8,
    parts: [
      { offset: 0, bytes: joined([new Uint8Array(header.buffer), ...extensions, name]) },
      { offset: REFCOUNT_TABLE, bytes: new Uint8Array(refcountBlock.buffer) },
      { offset: REFCOUNT_BLOCK, bytes: refcounts(3 + Math.ceil((entries * 8) / IMAGE_CLUSTER)) },
    ],
  };
}

function impossible(why: string): QmpBackupError {
  return new QmpBackupError('failed', why);
}

const COMPRESSION_TYPE_BIT = 8n;
/** Of two bytes each. */
const REFCOUNT_ORDER = 4;

/** Each of the first clusters is used once. */
function refcounts(clusters: number): Uint8Array {
  const counts = new DataView(new ArrayBuffer(clusters * 2));
  for (let cluster = 0; cluster < clusters; cluster += 1) counts.setUint16(cluster * 2, 1);
  return new Uint8Array(counts.buffer);
}

const END = 0;
const BACKING_FORMAT = 0xe2792aca;
const FEATURE_NAMES = 0x6803f857;

function extension(type: number, data: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(8 + Math.ceil(data.length / 8) * 8);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, type);
  view.setUint32(4, data.length);
  bytes.set(data, 8);
  return bytes;
}

/** By which a program that does not know a feature can say what it is. Kind: 0 incompatible, 1 compatible, 2 autoclear. */
const FEATURES: readonly (readonly [kind: number, bit: number, name: string])[] = [
  [0, 0, 'dirty bit'],
  [0, 1, 'corrupt bit'],
  [0, 2, 'external data file'],
  [0, 3, 'compression type'],
  [0, 4, 'extended L2 entries'],
  [1, 0, 'lazy refcounts'],
  [2, 0, 'bitmaps'],
  [2, 1, 'raw external data'],
];
const FEATURE_LENGTH = 48;

function featureNames(): Uint8Array {
  const table = new Uint8Array(FEATURES.length * FEATURE_LENGTH);
  for (const [index, [kind, bit, name]] of FEATURES.entries()) {
    table.set([kind, bit, ...new TextEncoder().encode(name)], index * FEATURE_LENGTH);
  }
  return table;
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let offset = 0;
  for (const part of parts) {
    bytes.set(part, offset);
    offset += part.length;
  }
  return bytes;
}

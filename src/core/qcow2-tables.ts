import { parseQcow2Header } from './qcow2-header.js';

/** Where qcow2 keeps which cluster of a disk, after docs/interop/qcow2.txt of QEMU. All in bytes. */
export interface TablesPlace {
  readonly clusterBits: number;
  readonly l1: { readonly offset: number; readonly entries: number };
}

/** Bits of incompatible features with which the tables are as usual: dirty, and how data is compressed. */
const USUAL = 0b1001n;

/** QEMU opens none with more: 32 MiB. */
const MOST_L1_ENTRIES = 4 * 1024 * 1024;

/** By the beginning of a file; undefined where its tables are of another kind. @throws QmpBackupError `damaged` for no header */
export function tablesOf(start: Uint8Array): TablesPlace | undefined {
  const { incompatibleFeatures, encrypted } = parseQcow2Header(start);
  if ((incompatibleFeatures & ~USUAL) !== 0n || encrypted) return undefined;
  const view = new DataView(start.buffer, start.byteOffset, start.byteLength);
  const l1 = { offset: Number(view.getBigUint64(40)), entries: view.getUint32(36) };
  return l1.entries > MOST_L1_ENTRIES ? undefined : { clusterBits: view.getUint32(20), l1 };
}

/** Where the table of reference counts is, by the beginning of a file. */
export function refcountsOf(start: Uint8Array): { readonly offset: number; readonly clusters: number } {
  const view = new DataView(start.buffer, start.byteOffset, start.byteLength);
  return { offset: Number(view.getBigUint64(48)), clusters: Math.min(view.getUint32(56), MOST_REFCOUNT_CLUSTERS) };
}

/** QEMU opens none with more than 8 MiB, in clusters of 64 KiB. */
const MOST_REFCOUNT_CLUSTERS = 128;

const OFFSET = 0x00ff_ffff_ffff_fe00n;
const COMPRESSED = 1n << 62n;
const ZERO = 1n;

/** What an entry of an L1 table says: where the L2 table is; 0 for nowhere. */
export function l2OffsetOf(entry: bigint): number {
  return Number(entry & OFFSET);
}

/** What an entry of an L2 table says of a cluster: that the file below has it, that it is zero, or where its data is. */
export type ClusterPlace = 'below' | 'zero' | DataPlace;

/** In the file. */
export interface DataPlace {
  readonly start: number;
  readonly end: number;
  readonly compressed?: true;
}

const SECTOR = 512;

export function clusterOf(entry: bigint, clusterBits: number): ClusterPlace {
  if ((entry & COMPRESSED) !== 0n) {
    const offsetBits = BigInt(62 - (clusterBits - 8));
    const start = Number(entry & ((1n << offsetBits) - 1n));
    const sectors = Number((entry & (COMPRESSED - 1n)) >> offsetBits);
    return { start, end: start - (start % SECTOR) + (sectors + 1) * SECTOR, compressed: true };
  }
  if ((entry & ZERO) !== 0n) return 'zero';
  const start = Number(entry & OFFSET);
  return start === 0 ? 'below' : { start, end: start + 2 ** clusterBits };
}

import type { FileHandle } from 'node:fs/promises';
import type { ByteRange } from '../core/pieces.js';
import { parseQcow2Header, QCOW2_HEADER_BYTES } from '../core/qcow2-header.js';
import {
  clusterOf,
  type ClusterPlace,
  l2OffsetOf,
  refcountsOf,
  type TablesPlace,
  tablesOf,
} from '../core/qcow2-tables.js';

/** What a file says of a part of the disk: that the file below has it, that it is zero, or where in the file it is. */
export interface Mapped {
  readonly guest: ByteRange;
  readonly place: ClusterPlace;
}

interface Tables {
  readonly place: TablesPlace;
  readonly l1: Buffer;
  readonly header: Buffer;
}

/** Which clusters of a disk a qcow2 file has, and where; its tables are read as they are asked for. */
export class ClusterMap {
  readonly #read: (range: ByteRange) => Promise<Buffer>;
  readonly #most: number;
  readonly #l2 = new Map<number, Buffer>();
  #tables: Tables | null | undefined;

  /**
   * @param read bytes of the file, fewer where it ends; whoever proves them does so here
   * @param most L2 tables that are kept
   */
  constructor(read: (range: ByteRange) => Promise<Buffer>, most: number) {
    this.#read = read;
    this.#most = most;
  }

  /** Whole clusters, all that touch the range; undefined for tables of another kind than usual. @throws what `read` throws */
  async clustersIn({ start, end }: ByteRange): Promise<readonly Mapped[] | undefined> {
    const tables = await this.#open();
    if (!tables) return undefined;
    const { place, l1 } = tables;
    const cluster = 2 ** place.clusterBits;
    const perTable = cluster / 8;
    const found: Mapped[] = [];
    const last = Math.ceil(end / cluster);
    for (let at = Math.floor(start / cluster); at < last;) {
      const table = Math.floor(at / perTable);
      const until = Math.min(last, (table + 1) * perTable);
      const l2 = await this.#l2At(table < place.l1.entries ? l2OffsetOf(l1.readBigUInt64BE(table * 8)) : 0, cluster);
      if (!l2) addTo(found, { guest: { start: at * cluster, end: until * cluster }, place: 'below' });
      for (let each = at; l2 && each < until; each += 1) {
        const guest = { start: each * cluster, end: (each + 1) * cluster };
        addTo(found, { guest, place: clusterOf(l2.readBigUInt64BE((each % perTable) * 8), place.clusterBits) });
      }
      at = until;
    }
    return found;
  }

  /** Where the file keeps all but data; undefined for tables of another kind than usual, and where it has snapshots or bitmaps. @throws what `read` throws */
  async metadata(): Promise<readonly ByteRange[] | undefined> {
    const tables = await this.#open();
    if (!tables) return undefined;
    const { place, l1, header } = tables;
    // They have tables of their own, which QEMU reads when it opens the file.
    const { snapshots, autoclearFeatures } = parseQcow2Header(header);
    if (snapshots > 0 || (autoclearFeatures & BITMAPS) !== 0n) return undefined;
    const cluster = 2 ** place.clusterBits;
    const clusterAt = (start: number): ByteRange => ({ start, end: start + cluster });
    const { offset, clusters } = refcountsOf(header);
    const counts = { start: offset, end: offset + clusters * cluster };
    return [
      { start: 0, end: QCOW2_HEADER_BYTES },
      { start: place.l1.offset, end: place.l1.offset + place.l1.entries * 8 },
      counts,
      ...entriesOf(padded(await this.#read(counts), counts)).map(clusterAt),
      ...entriesOf(l1).map(clusterAt),
    ];
  }

  async #open(): Promise<Tables | null> {
    if (this.#tables !== undefined) return this.#tables;
    const header = await this.#read({ start: 0, end: QCOW2_HEADER_BYTES });
    const place = tablesOf(header);
    if (!place) return (this.#tables = null);
    const range = { start: place.l1.offset, end: place.l1.offset + place.l1.entries * 8 };
    return (this.#tables = { place, header, l1: padded(await this.#read(range), range) });
  }

  async #l2At(offset: number, cluster: number): Promise<Buffer | null> {
    if (offset === 0) return null;
    const known = this.#l2.get(offset);
    if (known) return known;
    const range = { start: offset, end: offset + cluster };
    const table = padded(await this.#read(range), range);
    if (this.#l2.size >= this.#most) this.#l2.clear();
    this.#l2.set(offset, table);
    return table;
  }
}

/** Of the features that others may clear: there are bitmaps in the file. */
const BITMAPS = 1n;

/** Neighbours of which the same is said, in words, are one. */
function addTo(found: Mapped[], mapped: Mapped): void {
  const last = found.at(-1);
  if (last?.place === mapped.place && last.guest.end === mapped.guest.start) {
    found[found.length - 1] = { ...last, guest: { start: last.guest.start, end: mapped.guest.end } };
  } else {
    found.push(mapped);
  }
}

/** The offsets in a table of such, without those that lead nowhere. */
function entriesOf(table: Buffer): readonly number[] {
  const offsets = Array.from({ length: Math.floor(table.length / 8) }, (_, index) =>
    l2OffsetOf(table.readBigUInt64BE(index * 8)),
  );
  return offsets.filter((offset) => offset !== 0);
}

export async function readAt(handle: FileHandle, { start, end }: ByteRange): Promise<Buffer> {
  const { bytesRead, buffer } = await handle.read(Buffer.alloc(end - start), 0, end - start, start);
  return buffer.subarray(0, bytesRead);
}

/** What is beyond the end of a file reads as zeros. */
function padded(bytes: Buffer, { start, end }: ByteRange): Buffer {
  return Buffer.concat([bytes, Buffer.alloc(Math.max(0, end - start - bytes.length))]);
}

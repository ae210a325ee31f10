/** Which partitions a disk has, by its MBR or GPT. A table may come from anybody: nothing that it says leads beyond the disk. */
export interface Partition {
  /** As Linux numbers it. */
  readonly number: number;
  /** Bytes. */
  readonly offset: number;
  readonly length: number;
}

export interface PartitionTable {
  /** Bytes of the sectors that it counts in. */
  readonly sector: number;
  readonly partitions: readonly Partition[];
}

export type ReadAt = (offset: number, length: number) => Promise<Uint8Array>;

const SECTOR = 512;
/** A disk of the guest's has sectors of one of these sizes. */
const SECTORS = [SECTOR, 4096] as const;
const GPT_ENTRIES = 128;
const MAX_LOGICAL = 128;
const EXTENDED = new Set([0x05, 0x0f, 0x85]);
const PROTECTIVE = 0xee;

/**
 * None where there is no table: the whole disk may be a file system. A GPT tells by its place how large its sectors are, and an MBR
 * does not: it is taken for one of 512 bytes.
 */
export async function readPartitions(read: ReadAt, size: number): Promise<PartitionTable> {
  if (size < 2 * SECTOR) return { sector: SECTOR, partitions: [] };
  const mbr = entriesOf(await read(0, SECTOR));
  // What a table says may be any number, and no file has such a place.
  const within: ReadAt = async (offset, length) =>
    offset + length <= size ? await read(offset, length) : new Uint8Array(0);
  const isGpt = mbr.some(({ type }) => type === PROTECTIVE);
  const { sector, partitions } = isGpt
    ? await readGpt(within)
    : { sector: SECTOR, partitions: await readMbr(within, mbr) };
  return {
    sector,
    partitions: partitions.filter(({ offset, length }) => offset > 0 && length > 0 && offset + length <= size),
  };
}

interface Entry {
  readonly type: number;
  /** Sectors. */
  readonly start: number;
  readonly count: number;
}

function entriesOf(sector: Uint8Array): readonly Entry[] {
  const view = viewOf(sector);
  if (view.byteLength < SECTOR || view.getUint16(510, true) !== 0xaa55) return [];
  // The boot sector of a file system ends alike; what stands where the table would be is no table.
  const entries = [0, 1, 2, 3].map((index) => {
    const at = 446 + 16 * index;
    const flag = view.getUint8(at);
    return {
      flag,
      type: view.getUint8(at + 4),
      start: view.getUint32(at + 8, true),
      count: view.getUint32(at + 12, true),
    };
  });
  return entries.every(({ flag }) => flag === 0 || flag === 0x80) ? entries : [];
}

async function readMbr(read: ReadAt, entries: readonly Entry[]): Promise<readonly Partition[]> {
  const found: Partition[] = [];
  for (const [index, entry] of entries.entries()) {
    if (entry.type === 0) continue;
    if (EXTENDED.has(entry.type)) found.push(...(await readLogical(read, entry.start)));
    else found.push(partition(index + 1, entry.start, entry.count));
  }
  return found.toSorted((a, b) => a.number - b.number);
}

/** Each has a table of its own, with itself and the way to the next. */
async function readLogical(read: ReadAt, first: number): Promise<readonly Partition[]> {
  const found: Partition[] = [];
  for (let at = first, number = 5; number < 5 + MAX_LOGICAL; number += 1) {
    const [own, next] = entriesOf(await read(at * SECTOR, SECTOR));
    if (!own || own.type === 0) break;
    found.push(partition(number, at + own.start, own.count));
    if (!next || next.type === 0 || next.start === 0) break;
    at = first + next.start;
  }
  return found;
}

async function readGpt(read: ReadAt): Promise<PartitionTable> {
  for (const sector of SECTORS) {
    const header = viewOf(await read(sector, SECTOR));
    const isHeader = header.byteLength === SECTOR && header.getBigUint64(0, false) === 0x4546492050415254n;
    if (isHeader) return { sector, partitions: await readGptEntries(read, header, sector) };
  }
  return { sector: SECTOR, partitions: [] };
}

async function readGptEntries(read: ReadAt, header: DataView, sector: number): Promise<readonly Partition[]> {
  const [at, count, length] = [header.getBigUint64(72, true), header.getUint32(80, true), header.getUint32(84, true)];
  if (length < 128 || length > 4096) return [];
  const entries = Math.min(count, GPT_ENTRIES);
  const table = viewOf(await read(Number(at) * sector, entries * length));
  const found: Partition[] = [];
  for (let index = 0; (index + 1) * length <= table.byteLength; index += 1) {
    const entry = index * length;
    const type = table.getBigUint64(entry, true) | table.getBigUint64(entry + 8, true);
    const [first, last] = [table.getBigUint64(entry + 32, true), table.getBigUint64(entry + 40, true)];
    if (type !== 0n && last >= first) found.push(partition(index + 1, Number(first), Number(last - first) + 1, sector));
  }
  return found;
}

function partition(number: number, start: number, count: number, sector: number = SECTOR): Partition {
  return { number, offset: start * sector, length: count * sector };
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

import { type FileHandle, open } from 'node:fs/promises';
import type { FileFault } from '../core/file-record.js';
import { type ByteRange, hasDigest, methodOfPieces, pieceCount } from '../core/pieces.js';
import { fileFinding, type PointFinding } from '../core/point-findings.js';
import { QCOW2_HEADER_BYTES } from '../core/qcow2-header.js';
import { clusterOf, l2OffsetOf, type TablesPlace, tablesOf } from '../core/qcow2-tables.js';
import { QmpBackupError } from '../errors.js';
import { fileError } from '../host/file-errors.js';
import { damagedAt, whyDamaged } from './check-file.js';
import { digestOfRange, readPieces } from './digest.js';
import type { OpenDisk, OpenFile } from './open-point.js';

/**
 * Proves what was read of a disk, and no more: the pieces of its files (decision 24) that hold those bytes, and the tables that
 * tell where they are. A file without a list of its pieces is proved as a whole. Each piece is read once.
 */
export interface ReadProver {
  /** What is wrong with what these parts of the disk were read from. `tables`: only where data and holes are. */
  readonly prove: (reads: DiskReads, signal: AbortSignal) => Promise<readonly PointFinding[]>;
}

export interface DiskReads {
  readonly data: readonly ByteRange[];
  readonly tables: readonly ByteRange[];
}

export function proverOf({ disk, chain }: OpenDisk): ReadProver {
  const files = chain.toReversed().map((file) => newFile(file));
  return {
    prove: async ({ data, tables }, signal) => {
      const findings: PointFinding[] = [];
      let wanted: Wanted[] = [
        ...data.map((range) => ({ ...range, data: true })),
        ...tables.map((range) => ({ ...range, data: false })),
      ];
      for (const file of files) {
        if (wanted.length === 0) break;
        const before = file.fault;
        wanted = await proveIn(file, wanted, signal);
        if (file.fault && !before) findings.push(fileFinding(disk, file.entry.file, file.fault));
      }
      return findings;
    },
  };
}

/** A part of the disk, and whether its data is wanted too. */
interface Wanted extends ByteRange {
  readonly data: boolean;
}

interface ProvedFile extends OpenFile {
  /** The digests of its pieces; null where it is proved as a whole. */
  pieces: PieceDigests | null | undefined;
  readonly proved: Set<number>;
  tables: { readonly place: TablesPlace; readonly l1: Buffer } | null | undefined;
  readonly l2: Map<number, Buffer>;
  fault: FileFault | undefined;
}

interface PieceDigests {
  readonly bytes: number;
  readonly digests: readonly string[];
}

function newFile(file: OpenFile): ProvedFile {
  return { ...file, pieces: undefined, proved: new Set(), tables: undefined, l2: new Map(), fault: undefined };
}

/** What the files below have of it. */
async function proveIn(file: ProvedFile, wanted: readonly Wanted[], signal: AbortSignal): Promise<Wanted[]> {
  signal.throwIfAborted();
  // It is known to be damaged: nothing of it is proved any more, and what it says of others is not believed.
  if (file.fault) return [];
  try {
    const handle = await open(file.path, 'r');
    try {
      return await proveWith(file, handle, wanted, signal);
    } finally {
      await handle.close();
    }
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof Damaged) return [];
    if (error instanceof QmpBackupError && error.code === 'damaged') {
      file.fault = { code: 'no-image', why: error.message };
      return [];
    }
    file.fault = { code: 'unreadable', why: fileError('read', file.path, error).message };
    return [];
  }
}

class Damaged extends Error {}

async function proveWith(
  file: ProvedFile,
  handle: FileHandle,
  wanted: readonly Wanted[],
  signal: AbortSignal,
): Promise<Wanted[]> {
  const prove = (range: ByteRange): Promise<void> => provePieces(file, handle, range, signal);
  const tables = await openTables(file, handle, prove);
  // With tables of another kind it may have anything, and so may those below.
  if (!tables) {
    await prove({ start: 0, end: file.entry.size });
    return [...wanted];
  }
  const { place, l1 } = tables;
  const cluster = 2 ** place.clusterBits;
  const perTable = cluster / 8;
  const below: Wanted[] = [];
  for (const { start, end, data } of wanted) {
    for (let at = Math.floor(start / cluster); at * cluster < end; at += 1) {
      const table = Math.floor(at / perTable);
      const offset = table < place.l1.entries ? l2OffsetOf(l1.readBigUInt64BE(table * 8)) : 0;
      const l2 = offset === 0 ? null : await readL2(file, handle, { start: offset, end: offset + cluster }, prove);
      const found = l2 ? clusterOf(l2.readBigUInt64BE((at % perTable) * 8), place.clusterBits) : 'below';
      if (found === 'below') addTo(below, { start: at * cluster, end: (at + 1) * cluster, data });
      else if (found !== 'zero' && data) await prove(found);
    }
  }
  return below;
}

function addTo(ranges: Wanted[], range: Wanted): void {
  const last = ranges.at(-1);
  if (last?.end === range.start && last.data === range.data) ranges[ranges.length - 1] = { ...last, end: range.end };
  else ranges.push(range);
}

async function openTables(
  file: ProvedFile,
  handle: FileHandle,
  prove: (range: ByteRange) => Promise<void>,
): Promise<ProvedFile['tables']> {
  if (file.tables !== undefined) return file.tables;
  await prove({ start: 0, end: QCOW2_HEADER_BYTES });
  const place = tablesOf(await readAt(handle, { start: 0, end: QCOW2_HEADER_BYTES }));
  if (!place) return (file.tables = null);
  const range = { start: place.l1.offset, end: place.l1.offset + place.l1.entries * 8 };
  await prove(range);
  return (file.tables = { place, l1: padded(await readAt(handle, range), range) });
}

/** What of the tables is kept of each file. */
const MOST_TABLES = 64;

async function readL2(
  { l2 }: ProvedFile,
  handle: FileHandle,
  range: ByteRange,
  prove: (range: ByteRange) => Promise<void>,
): Promise<Buffer> {
  const known = l2.get(range.start);
  if (known) return known;
  await prove(range);
  const table = padded(await readAt(handle, range), range);
  if (l2.size >= MOST_TABLES) l2.clear();
  l2.set(range.start, table);
  return table;
}

async function readAt(handle: FileHandle, { start, end }: ByteRange): Promise<Buffer> {
  const { bytesRead, buffer } = await handle.read(Buffer.alloc(end - start), 0, end - start, start);
  return buffer.subarray(0, bytesRead);
}

/** What is beyond the end of a file reads as zeros. */
function padded(bytes: Buffer, { start, end }: ByteRange): Buffer {
  return Buffer.concat([bytes, Buffer.alloc(end - start - bytes.length)]);
}

/** @throws Damaged where they are not what was sealed, which the file then remembers */
async function provePieces(
  file: ProvedFile,
  handle: FileHandle,
  { start, end }: ByteRange,
  signal: AbortSignal,
): Promise<void> {
  const { entry, path, proved } = file;
  if (!hasDigest(entry)) return;
  if (file.pieces === undefined) file.pieces = await listOf(file);
  if (file.pieces === null) return proveWhole(file, signal);
  const { bytes, digests } = file.pieces;
  const last = Math.min(digests.length, Math.ceil(end / bytes));
  for (let piece = Math.floor(start / bytes); piece < last; piece += 1) {
    if (proved.has(piece)) continue;
    signal.throwIfAborted();
    const range = { start: piece * bytes, end: Math.min((piece + 1) * bytes, entry.size) };
    const method = entry.pieces ? methodOfPieces(entry.pieces) : 'sha256';
    if ((await digestOfRange(handle, range, method, signal)) !== digests[piece]) {
      file.fault = damagedAt({ ranges: [range] });
      throw new Damaged(path);
    }
    proved.add(piece);
  }
}

/** Null where the file has to be read as a whole. */
async function listOf({ path, entry: { pieces, size } }: OpenFile): Promise<PieceDigests | null> {
  if (!pieces) return null;
  const count = pieceCount(size, pieces.bytes);
  const digests = count > 1 ? await readPieces(path, pieces, count) : undefined;
  return digests ? { bytes: pieces.bytes, digests } : null;
}

const WHOLE = -1;

async function proveWhole(file: ProvedFile, signal: AbortSignal): Promise<void> {
  const { path, entry, proved } = file;
  if (proved.has(WHOLE)) return;
  file.fault = await whyDamaged(path, entry, { signal });
  if (file.fault) throw new Damaged(path);
  proved.add(WHOLE);
}

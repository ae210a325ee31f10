import { type FileHandle, open } from 'node:fs/promises';
import type { FileFault } from '../core/file-record.js';
import type { ByteRange } from '../core/pieces.js';
import { fileFinding, type PointFinding } from '../core/point-findings.js';
import { QmpBackupError } from '../errors.js';
import { fileError } from '../host/file-errors.js';
import { ClusterMap, readAt } from './cluster-map.js';
import type { OpenDisk, OpenFile } from './open-point.js';
import { ProvedPieces } from './proved-pieces.js';

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
  readonly pieces: ProvedPieces;
  /** Its tables, proved as they are read. */
  readonly map: ClusterMap;
  /** While something of it is proved. */
  handle: FileHandle | undefined;
  fault: FileFault | undefined;
}

function newFile(opened: OpenFile): ProvedFile {
  const { signal } = new AbortController();
  const map = new ClusterMap(async (range) => {
    await prove(file, range, signal);
    if (!file.handle) throw new Error(`${file.path} is not open`);
    return readAt(file.handle, range);
  }, MOST_TABLES);
  const file: ProvedFile = { ...opened, pieces: new ProvedPieces(opened), map, handle: undefined, fault: undefined };
  return file;
}

/** What of the tables is kept of each file. */
const MOST_TABLES = 64;

/** What the files below have of it. */
async function proveIn(file: ProvedFile, wanted: readonly Wanted[], signal: AbortSignal): Promise<Wanted[]> {
  signal.throwIfAborted();
  // It is known to be damaged: nothing of it is proved any more, and what it says of others is not believed.
  if (file.fault) return [];
  try {
    file.handle = await open(file.path, 'r');
    try {
      return await proveWith(file, wanted, signal);
    } finally {
      await file.handle.close();
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

async function proveWith(file: ProvedFile, wanted: readonly Wanted[], signal: AbortSignal): Promise<Wanted[]> {
  const below: Wanted[] = [];
  for (const { start, end, data } of wanted) {
    signal.throwIfAborted();
    const clusters = await file.map.clustersIn({ start, end });
    // With tables of another kind it may have anything, and so may those below.
    if (!clusters) {
      await prove(file, { start: 0, end: file.entry.size }, signal);
      return [...wanted];
    }
    for (const { guest, place } of clusters) {
      if (place === 'below') addTo(below, { ...guest, data });
      else if (place !== 'zero' && data) await prove(file, place, signal);
    }
  }
  return below;
}

function addTo(ranges: Wanted[], range: Wanted): void {
  const last = ranges.at(-1);
  if (last?.end === range.start && last.data === range.data) ranges[ranges.length - 1] = { ...last, end: range.end };
  else ranges.push(range);
}

/** @throws Damaged where they are not what was sealed, which the file then remembers */
async function prove(file: ProvedFile, range: ByteRange, signal: AbortSignal): Promise<void> {
  const bad = file.handle && (await file.pieces.badIn(file.handle, range, signal));
  if (!bad) return;
  file.fault = bad.fault;
  throw new Damaged(file.path);
}

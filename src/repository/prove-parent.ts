import { type FileHandle, open } from 'node:fs/promises';
import type { FileFault } from '../core/file-record.js';
import type { ByteRange } from '../core/pieces.js';
import { QmpBackupError } from '../errors.js';
import { fileError } from '../host/file-errors.js';
import type { HashRange } from '../host/hash-threads.js';
import { ClusterMap, readAt } from './cluster-map.js';
import type { OpenFile } from './open-point.js';
import { ProvedPieces } from './proved-pieces.js';

/** The files of a would-be parent, FULL first, proved as a disk is compared with them. */
export class ParentProver {
  /** Newest first, as they are read. */
  readonly #files: readonly ProvedFile[];
  readonly #signal: AbortSignal;

  private constructor(files: readonly ProvedFile[], signal: AbortSignal) {
    this.#files = files;
    this.#signal = signal;
  }

  /** @throws QmpBackupError for a file that cannot be opened */
  static async open(chain: readonly OpenFile[], signal: AbortSignal, hash?: HashRange): Promise<ParentProver> {
    const files: ProvedFile[] = [];
    try {
      for (const each of chain.toReversed()) files.push(await openFile(each, signal, hash));
    } catch (error) {
      await closeAll(files);
      throw error;
    }
    return new ParentProver(files, signal);
  }

  /** What is wrong with the tables of a file: then nothing tells what of the disk it has. Only an abort is thrown. */
  async whyUnusable(): Promise<{ readonly file: string; readonly fault: FileFault } | undefined> {
    for (const each of this.#files) {
      const fault = await faultOfTables(each, this.#signal);
      if (fault) return { file: each.entry.file, fault };
    }
    return undefined;
  }

  /**
   * Reads what the files have of a part of the disk, which is not proved by that. False where they have any of it in a form that
   * only QEMU reads, such as compressed; what is in the buffer then means nothing.
   */
  async read(offset: number, into: Buffer): Promise<boolean> {
    const parts: Part[] = [];
    let wanted: readonly ByteRange[] = [{ start: offset, end: offset + into.length }];
    for (const file of this.#files) {
      const below: ByteRange[] = [];
      for (const { start, end } of wanted) {
        // Beyond its end a file has zeros, and hides what the files below have there.
        const within = { start, end: Math.min(end, file.entry.virtualSize) };
        const clusters = within.start < within.end ? await file.map.clustersIn(within) : [];
        if (!clusters) return false;
        for (const { guest, place } of clusters) {
          const part = { start: Math.max(guest.start, start), end: Math.min(guest.end, within.end) };
          if (place === 'below') below.push(part);
          else if (place !== 'zero' && place.compressed) return false;
          else if (place !== 'zero')
            addPart(parts, { ...part, file, position: place.start + part.start - guest.start });
        }
      }
      wanted = below;
    }
    into.fill(0);
    for (const { file, position, start, end } of parts) {
      await readInto(file.handle, position, into.subarray(start - offset, end - offset));
    }
    return true;
  }

  /** The whole clusters of a part of the disk that the files have in pieces which are not what was sealed. */
  async rottenIn(range: ByteRange): Promise<readonly ByteRange[]> {
    const rotten: ByteRange[] = [];
    let wanted: readonly ByteRange[] = [range];
    for (const file of this.#files) {
      if (wanted.length === 0) break;
      const below: ByteRange[] = [];
      for (const each of wanted) {
        for (const { guest, place } of (await file.map.clustersIn(each)) ?? []) {
          if (place === 'below') below.push(guest);
          else if (place !== 'zero' && (await isRotten(file, place, this.#signal))) rotten.push(guest);
        }
      }
      wanted = below;
    }
    return rotten;
  }

  /** What was found so far, by file. */
  get faults(): readonly { readonly file: string; readonly ranges: readonly ByteRange[] }[] {
    return this.#files.flatMap(({ entry: { file }, bad }) =>
      bad.size === 0 ? [] : [{ file, ranges: [...bad.values()].toSorted((a, b) => a.start - b.start) }],
    );
  }

  close(): Promise<void> {
    return closeAll(this.#files);
  }
}

interface ProvedFile extends OpenFile {
  readonly handle: FileHandle;
  readonly pieces: ProvedPieces;
  readonly map: ClusterMap;
  /** By where it begins. */
  readonly bad: Map<number, ByteRange>;
}

/** The disk is read from its beginning to its end: one table is done with when the next is asked for, but for what overlaps. */
const TABLES = 2;

async function openFile(file: OpenFile, signal: AbortSignal, hash?: HashRange): Promise<ProvedFile> {
  const handle = await open(file.path, 'r').catch((error: unknown) => {
    throw fileError('read', file.path, error);
  });
  const pieces = new ProvedPieces(file, hash);
  const map = new ClusterMap(async (range) => {
    const bad = await pieces.badIn(handle, range, signal);
    if (bad) throw new BadTables(file.entry.file, bad.fault);
    return readAt(handle, range);
  }, TABLES);
  return { ...file, handle, pieces, map, bad: new Map() };
}

/** Found on the way only where they have rotted since they were proved. */
class BadTables extends QmpBackupError {
  readonly fault: FileFault;

  constructor(file: string, fault: FileFault) {
    super('damaged', `${file}, with which the disk is compared: ${fault.why}`, {
      hint: 'The next run takes a FULL of that disk.',
    });
    this.fault = fault;
  }
}

async function faultOfTables(
  { path, handle, pieces, map }: ProvedFile,
  signal: AbortSignal,
): Promise<FileFault | undefined> {
  try {
    const metadata = await map.metadata();
    if (!metadata) return { code: 'no-image', why: 'its tables are of another kind than this program knows' };
    for (const range of metadata) {
      const bad = await pieces.badIn(handle, range, signal);
      if (bad) return bad.fault;
    }
    return undefined;
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof BadTables) return error.fault;
    if (error instanceof QmpBackupError && error.code === 'damaged') return { code: 'no-image', why: error.message };
    return { code: 'unreadable', why: fileError('read', path, error).message };
  }
}

async function isRotten({ handle, pieces, bad }: ProvedFile, place: ByteRange, signal: AbortSignal): Promise<boolean> {
  const found = await pieces.badIn(handle, place, signal);
  for (const range of found?.ranges ?? []) bad.set(range.start, range);
  return found !== undefined;
}

/** A part of the disk, and where it is. */
interface Part extends ByteRange {
  readonly file: ProvedFile;
  readonly position: number;
}

/** What lies together in the file, too, is read together. */
function addPart(parts: Part[], part: Part): void {
  const last = parts.at(-1);
  const isNext = last?.file === part.file && last.end === part.start;
  if (isNext && last.position + last.end - last.start === part.position) {
    parts[parts.length - 1] = { ...last, end: part.end };
  } else {
    parts.push(part);
  }
}

/** What is beyond the end of the file stays as it is. */
async function readInto(handle: FileHandle, position: number, target: Buffer): Promise<void> {
  for (let done = 0; done < target.length;) {
    const { bytesRead } = await handle.read(target, done, target.length - done, position + done);
    if (bytesRead === 0) return;
    done += bytesRead;
  }
}

async function closeAll(files: readonly ProvedFile[]): Promise<void> {
  for (const { handle } of files) await handle.close();
}

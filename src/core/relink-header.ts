import { parseQcow2Header } from './qcow2-header.js';

/** What is written when an image gets another backing file: bytes from the beginning of the file. */
export interface HeaderPatch {
  readonly bytes: Uint8Array;
}

/**
 * One write within it is all or nothing for a process that is killed (one page of the page cache), and for most storage that loses
 * power. Bytes.
 */
const ATOMIC = 4096;

const NAME_OFFSET = 8;
const NAME_LENGTH = 16;

/**
 * Gives the image that begins with `start` (its first `QCOW2_HEADER_BYTES`) another backing file. Null where that is more than one
 * small write: the name lies further out, or there is something behind it.
 *
 * @throws QmpBackupError as `parseQcow2Header`
 */
export function relinkHeader(start: Uint8Array, name: string): HeaderPatch | null {
  const { backingFile, clusterSize } = parseQcow2Header(start);
  if (backingFile === null) return null;
  const view = new DataView(start.buffer, start.byteOffset, start.byteLength);
  // The header, and its extensions, end before it: so it was parsed.
  const offset = Number(view.getBigUint64(NAME_OFFSET));
  const before = view.getUint32(NAME_LENGTH);
  const after = new TextEncoder().encode(name);
  const end = offset + Math.max(before, after.length);
  if (end > Math.min(ATOMIC, clusterSize, start.byteLength)) return null;
  if (start.subarray(offset + before, end).some((byte) => byte !== 0)) return null;
  const bytes = start.slice(0, end);
  new DataView(bytes.buffer).setUint32(NAME_LENGTH, after.length);
  bytes.fill(0, offset);
  bytes.set(after, offset);
  return { bytes };
}

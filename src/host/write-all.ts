import type { FileHandle } from 'node:fs/promises';

/** Writes all of `bytes` at an offset: one write may take a part of them only, where the disk is nearly full. */
export async function writeAll(handle: FileHandle, bytes: Uint8Array, at: number): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    done += (await handle.write(bytes, done, bytes.length - done, at + done)).bytesWritten;
  }
}

/** Bytes. */
const HOLE = 64 * 1024;
const ZEROS = Buffer.alloc(HOLE);

/** The same into a file that is new: zeros stay holes, in whole pieces from the beginning of `bytes`. Its length is the caller's to set. */
export async function writeWithHoles(handle: FileHandle, bytes: Uint8Array, at: number): Promise<void> {
  const isHole = (from: number): boolean => {
    const piece = bytes.subarray(from, from + HOLE);
    return ZEROS.subarray(0, piece.length).equals(piece);
  };
  for (let from = 0; from < bytes.length;) {
    let end = from;
    while (end < bytes.length && !isHole(end)) end += HOLE;
    await writeAll(handle, bytes.subarray(from, end), at + from);
    from = end;
    while (from < bytes.length && isHole(from)) from += HOLE;
  }
}

import type { FileHandle } from 'node:fs/promises';

/** Writes all of `bytes` at an offset: one write may take a part of them only, where the disk is nearly full. */
export async function writeAll(handle: FileHandle, bytes: Uint8Array, at: number): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    done += (await handle.write(bytes, done, bytes.length - done, at + done)).bytesWritten;
  }
}

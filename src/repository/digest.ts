import { createHash } from 'node:crypto';
import { open } from 'node:fs/promises';
import { fileError } from './file-errors.js';

/** Bytes hashed in one go: a millisecond or two, so that timers (the locks' refresh among them) get their turn. */
const CHUNK = 1024 * 1024;

/**
 * SHA-256 of a file's content in hexadecimal. Two buffers take turns: one is read into while the other is hashed.
 * `onBytes` gets the number of bytes hashed since its last call. Throws the signal's reason when aborted.
 */
export async function sha256File(
  path: string,
  { signal, onBytes }: { readonly signal?: AbortSignal; readonly onBytes?: (count: number) => void } = {},
): Promise<string> {
  signal?.throwIfAborted();
  try {
    const handle = await open(path, 'r');
    try {
      const hash = createHash('sha256');
      let [reading, hashing] = [Buffer.allocUnsafeSlow(CHUNK), Buffer.allocUnsafeSlow(CHUNK)];
      let { bytesRead } = await handle.read(reading, 0, CHUNK, null);
      while (bytesRead > 0) {
        signal?.throwIfAborted();
        [reading, hashing] = [hashing, reading];
        const next = handle.read(reading, 0, CHUNK, null);
        hash.update(hashing.subarray(0, bytesRead));
        onBytes?.(bytesRead);
        ({ bytesRead } = await next);
      }
      return hash.digest('hex');
    } finally {
      await handle.close();
    }
  } catch (error) {
    signal?.throwIfAborted();
    throw fileError('read', path, error);
  }
}

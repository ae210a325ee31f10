import { createHash } from 'node:crypto';
import { open } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileError } from '../host/file-errors.js';

/** Bytes hashed in one go: a millisecond or two, so that timers (the locks' refresh among them) get their turn. */
const CHUNK = 1024 * 1024;

export interface DigestOptions {
  readonly signal?: AbortSignal | undefined;
  /** Gets the number of bytes hashed since its last call. */
  readonly onBytes?: ((count: number) => void) | undefined;
  /** Bytes per second; 0 or absent is no limit. */
  readonly rateLimit?: number | undefined;
}

/**
 * SHA-256 of a file's content in hexadecimal. Two buffers take turns: one is read into while the other is hashed.
 * Throws the signal's reason when aborted.
 */
export async function sha256File(path: string, options: DigestOptions = {}): Promise<string> {
  const { signal, onBytes, rateLimit = 0 } = options;
  signal?.throwIfAborted();
  try {
    const handle = await open(path, 'r');
    try {
      const hash = createHash('sha256');
      let [reading, hashing] = [Buffer.allocUnsafeSlow(CHUNK), Buffer.allocUnsafeSlow(CHUNK)];
      let due = performance.now();
      let { bytesRead } = await handle.read(reading, 0, CHUNK, null);
      while (bytesRead > 0) {
        signal?.throwIfAborted();
        [reading, hashing] = [hashing, reading];
        const next = handle.read(reading, 0, CHUNK, null);
        hash.update(hashing.subarray(0, bytesRead));
        onBytes?.(bytesRead);
        due += rateLimit > 0 ? (bytesRead / rateLimit) * 1000 : 0;
        if (rateLimit > 0) await sleep(Math.max(0, due - performance.now()), undefined, { signal });
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

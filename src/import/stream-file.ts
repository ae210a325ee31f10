import { QmpBackupError } from '../errors.js';
import { fileError } from '../host/file-errors.js';
import { ByteFeed } from './byte-feed.js';
import { sparseStream, type StreamEvent } from './sparse-stream.js';
import { openPlain } from './stream-folder.js';

/** Bytes read at once. */
const CHUNK = 1024 * 1024;

/**
 * The whole of a stream, event by event; what an event holds is valid until the next one.
 *
 * @throws QmpBackupError `damaged` for anything that is not a whole stream; `unsafe`, `failed`; the signal's reason
 */
export async function* readStream(path: string, signal: AbortSignal): AsyncGenerator<StreamEvent, void, void> {
  const feed = new ByteFeed(sparseStream());
  for await (const chunk of chunksOf(path, signal)) {
    if (feed.done) throw new QmpBackupError('damaged', 'it goes on after its end');
    yield* feed.push(chunk);
  }
  if (!feed.done) throw new QmpBackupError('damaged', 'it ends in the middle');
  if (feed.left > 0) throw new QmpBackupError('damaged', 'it goes on after its end');
}

/** A raw image, as the stream of it would be. */
export async function* readRaw(path: string, signal: AbortSignal): AsyncGenerator<StreamEvent, void, void> {
  let offset = 0;
  for await (const bytes of chunksOf(path, signal)) {
    yield { kind: 'data', offset, bytes };
    offset += bytes.length;
  }
}

/** One buffer for all chunks: each is valid until the next. */
async function* chunksOf(path: string, signal: AbortSignal): AsyncGenerator<Uint8Array, void, void> {
  const handle = await openPlain(path);
  try {
    const buffer = Buffer.allocUnsafeSlow(CHUNK);
    for (;;) {
      signal.throwIfAborted();
      const { bytesRead } = await read(() => handle.read(buffer, 0, CHUNK, null), path);
      if (bytesRead === 0) return;
      yield buffer.subarray(0, bytesRead);
    }
  } finally {
    await handle.close();
  }
}

async function read<T>(step: () => Promise<T>, path: string): Promise<T> {
  try {
    return await step();
  } catch (error) {
    throw fileError('read', path, error);
  }
}

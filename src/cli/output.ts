import { fstatSync, writeSync } from 'node:fs';
import { isatty } from 'node:tty';
import { QmpBackupError } from '../errors.js';
import { codeOf, fileError } from '../host/file-errors.js';

/**
 * stdout and stderr. Writing there never throws: what only tells must not end what it tells of. A pipe or a terminal has
 * a reader, who may go (`| head`, a closed window); a file or a device is to keep what it is given, and may fail to.
 */
type Output = NodeJS.WriteStream & { readonly fd: number };

/** What was not written, or null. A reader that has gone is no error. */
export function put(stream: Output, text: string): Error | null {
  try {
    if (keeps(stream.fd)) writeWhole(stream.fd, text);
    else stream.write(text);
    return null;
  } catch (error) {
    return error as Error;
  }
}

/** Node's stream for a file takes a write that was cut short, as on a full disk, for a whole one (20.20). */
export function writeWhole(fd: number, text: string | Buffer): void {
  let rest = typeof text === 'string' ? Buffer.from(text) : text;
  while (rest.length > 0) rest = rest.subarray(writeSync(fd, rest));
}

function keeps(fd: number): boolean {
  const stats = fstatSync(fd);
  return stats.isFile() || stats.isBlockDevice() || (stats.isCharacterDevice() && !isatty(fd));
}

/** Whether a part of what was asked for could not be written. */
let answerLost: Error | null = null;

let answerStream: Output = process.stdout;

/** From now on stdout has data, and the answer, or the error in its place, goes to stderr. */
export function answerOnStderr(): void {
  answerStream = process.stderr;
}

/** Writes the answer, and keeps in mind where that fails: such a run does not end with 0. */
export function putAnswer(text: string): Error | null {
  const error = put(answerStream, text);
  answerLost ??= error;
  return error;
}

export function lostAnswer(): Error | null {
  return answerLost;
}

/**
 * Writes data to stdout as fast as its reader takes it. A reader that takes nothing is waited for until `signal` aborts.
 *
 * @throws QmpBackupError `failed` where it does not take all of it; the reason of the signal
 */
export async function putBytes(bytes: Buffer, signal?: AbortSignal): Promise<void> {
  try {
    if (keeps(process.stdout.fd)) writeWhole(process.stdout.fd, bytes);
    else await writeToReader(bytes, signal);
  } catch (error) {
    signal?.throwIfAborted();
    if (codeOf(error) !== 'EPIPE') throw fileError('write', 'stdout', error);
    throw new QmpBackupError('failed', 'whoever reads stdout has gone before its end', { cause: error });
  }
}

function writeToReader(bytes: Buffer, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(signal?.reason as Error);
    if (signal?.aborted) return onAbort();
    signal?.addEventListener('abort', onAbort, { once: true });
    process.stdout.write(bytes, (error) => {
      signal?.removeEventListener('abort', onAbort);
      if (error) reject(error);
      else resolve();
    });
  });
}

/** Whether data wait for a reader who takes nothing: the process would wait with them. */
export function isReaderStuck(): boolean {
  return answerStream === process.stderr && process.stdout.writableLength > 0;
}

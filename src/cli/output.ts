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

/** Writes data to stdout as fast as its reader takes it. @throws QmpBackupError `failed` where it does not take all of it */
export async function putBytes(bytes: Buffer): Promise<void> {
  try {
    if (keeps(process.stdout.fd)) writeWhole(process.stdout.fd, bytes);
    else await writeToReader(bytes);
  } catch (error) {
    if (codeOf(error) !== 'EPIPE') throw fileError('write', 'stdout', error);
    throw new QmpBackupError('failed', 'whoever reads stdout has gone before its end', { cause: error });
  }
}

function writeToReader(bytes: Buffer): Promise<void> {
  return new Promise((resolve, reject) => {
    process.stdout.write(bytes, (error) => (error ? reject(error) : resolve()));
  });
}

import { printable } from '../core/printable.js';
import { QmpBackupError } from '../errors.js';
import { sumOf, TAR_BLOCK, TAR_END } from './tar-headers.js';

/**
 * Reads an archive of regular files from a stream, member by member. It may come from anywhere: whatever `tarHeader` does not
 * write is refused, and nothing is kept in memory but what is asked for.
 */
export interface TarMember {
  readonly path: string;
  /** Bytes. */
  readonly size: number;
  /** To be read to its end before the next member is asked for. Chunks are valid until the next is. */
  readonly body: () => AsyncGenerator<Buffer, void>;
}

/** Bytes that pax may take to tell of one member. */
const MOST_PAX = 64 * 1024;

/** The most that is handed out at once, in bytes. */
const CHUNK = 1024 * 1024;

export class TarReader {
  readonly #chunks: AsyncIterator<Buffer>;
  readonly #seen: (bytes: Buffer) => void;
  #chunk: Buffer = Buffer.alloc(0);

  /** @param seen gets every byte of the archive, in order */
  constructor(stream: AsyncIterable<Buffer>, seen: (bytes: Buffer) => void = () => undefined) {
    this.#chunks = stream[Symbol.asyncIterator]();
    this.#seen = seen;
  }

  /**
   * Undefined at the end of the archive, of which whatever follows is no part.
   *
   * @throws QmpBackupError `damaged` where the stream ends before; `unsafe` for what is no such archive
   */
  async next(): Promise<TarMember | undefined> {
    const block = await this.#exactly(TAR_BLOCK);
    if (isEnd(block)) {
      if (!isEnd(await this.#exactly(TAR_BLOCK))) throw notOurs('its end is followed by something');
      return undefined;
    }
    const pax = headerIn(block);
    if (pax.type !== 'x' || pax.size > MOST_PAX) throw notOurs('a member begins without its pax header');
    const records = recordsIn(await this.#padded(pax.size));
    const { type } = headerIn(await this.#exactly(TAR_BLOCK));
    const [path, size] = [records.get('path') ?? '', Number(records.get('size'))];
    if (type !== '0' || path === '' || !/^\d+$/.test(records.get('size') ?? '') || !Number.isSafeInteger(size)) {
      throw notOurs(`${JSON.stringify(printable(path))} is no regular file`);
    }
    return { path, size, body: () => this.#body(size) };
  }

  async *#body(size: number): AsyncGenerator<Buffer, void> {
    for (let left = size; left > 0;) {
      const bytes = await this.#atMost(Math.min(left, CHUNK));
      left -= bytes.length;
      yield bytes;
    }
    await this.#exactly(fillerOf(size));
  }

  async #padded(size: number): Promise<Buffer> {
    return (await this.#exactly(size + fillerOf(size))).subarray(0, size);
  }

  async #exactly(size: number): Promise<Buffer> {
    const parts: Buffer[] = [];
    for (let left = size; left > 0;) {
      const part = await this.#atMost(left);
      parts.push(part);
      left -= part.length;
    }
    return Buffer.concat(parts);
  }

  async #atMost(size: number): Promise<Buffer> {
    while (this.#chunk.length === 0) {
      const next = await this.#chunks.next();
      if (next.done) throw cut();
      this.#chunk = next.value;
    }
    const bytes = this.#chunk.subarray(0, size);
    this.#chunk = this.#chunk.subarray(bytes.length);
    this.#seen(bytes);
    return bytes;
  }
}

function fillerOf(size: number): number {
  return (TAR_BLOCK - (size % TAR_BLOCK)) % TAR_BLOCK;
}

function isEnd(block: Buffer): boolean {
  return block.equals(TAR_END.subarray(0, TAR_BLOCK));
}

function headerIn(block: Buffer): { readonly type: string; readonly size: number } {
  const octal = (at: number, digits: number): number => parseInt(block.toString('latin1', at, at + digits), 8);
  if (block.toString('latin1', 257, 262) !== 'ustar' || octal(148, 6) !== sumOf(block)) {
    throw notOurs('a header is none of pax, or its sum is wrong');
  }
  return { type: block.toString('latin1', 156, 157), size: octal(124, 11) };
}

function recordsIn(body: Buffer): ReadonlyMap<string, string> {
  const records = new Map<string, string>();
  for (let at = 0; at < body.length;) {
    const blank = body.indexOf(' ', at);
    const length = Number(body.toString('latin1', at, blank));
    const record = body.subarray(blank + 1, at + length).toString('utf8');
    const equals = record.indexOf('=');
    if (!(length > 0) || blank < at || equals < 1 || !record.endsWith('\n')) throw notOurs('a pax record is none');
    records.set(record.slice(0, equals), record.slice(equals + 1, -1));
    at += length;
  }
  return records;
}

function notOurs(why: string): QmpBackupError {
  return new QmpBackupError('unsafe', `the archive is none that export has written: ${why}`, {
    hint: 'Give what "qmpbackup export --output FILE" has written, as it is: not unpacked, packed anew or compressed.',
  });
}

function cut(): QmpBackupError {
  return new QmpBackupError('damaged', 'the archive ends too early: it was cut on its way, or its writer has failed', {
    hint: 'Nothing of it was taken in. See what its writer says, and run both again.',
  });
}

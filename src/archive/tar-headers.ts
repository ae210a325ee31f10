/** What stands in a tar archive (POSIX pax) before and after the bytes of a member. */
export interface TarEntry {
  readonly path: string;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Bytes that follow the header. */
  readonly size: number;
  /** Seconds. */
  readonly mtime: number;
  /** `0`: a file, `2`: a link, `5`: a folder. */
  readonly type: string;
  /** Of a link. */
  readonly target?: string;
  /** What else pax is to record of it. */
  readonly records?: Readonly<Record<string, string>>;
}

export const TAR_BLOCK = 512;

/** The header of a member, with all that has no room in that of old. */
export function tarHeader(entry: TarEntry): Buffer {
  const { path, target = '', size, uid, gid, mtime, records } = entry;
  const told = { path, linkpath: target, size: `${size}`, uid: `${uid}`, gid: `${gid}`, mtime: `${mtime}`, ...records };
  return Buffer.concat([paxOf(told), blockOf(entry)]);
}

/** What fills up the last block of so many bytes. */
export function tarPadding(size: number): Buffer {
  return Buffer.alloc((TAR_BLOCK - (size % TAR_BLOCK)) % TAR_BLOCK);
}

export const TAR_END = Buffer.alloc(2 * TAR_BLOCK);

/** The sum that a header has of itself, in which the sum counts as blanks. */
export function sumOf(block: Uint8Array): number {
  let sum = 8 * 0x20;
  for (const [at, byte] of block.entries()) if (at < SUM_AT || at >= SUM_AT + 8) sum += byte;
  return sum;
}

const SUM_AT = 148;
/** Of seven octal digits. */
const MOST = 0o7777777;
/** Of eleven. */
const MOST_SIZE = 0o77777777777;

/** Whatever has no room here was told before, by `paxOf`. */
function blockOf({ path, mode, uid, gid, size, mtime, type, target = '' }: TarEntry): Buffer {
  const block = Buffer.alloc(TAR_BLOCK);
  const octal = (value: number, at: number, digits: number): void =>
    void block.write(value.toString(8).padStart(digits, '0'), at, digits, 'latin1');
  block.write(path, 0, 100);
  octal(mode & 0o7777, 100, 7);
  octal(Math.min(uid, MOST), 108, 7);
  octal(Math.min(gid, MOST), 116, 7);
  if (size <= MOST_SIZE) octal(size, 124, 11);
  else writeBinary(block, size, 124);
  octal(Math.min(Math.max(0, Math.floor(mtime)), MOST_SIZE), 136, 11);
  block.write(type, 156, 'latin1');
  block.write(target, 157, 100);
  block.write('ustar\x0000', 257, 'latin1');
  block.write(`${sumOf(block).toString(8).padStart(6, '0')}\0 `, SUM_AT, 'latin1');
  return block;
}

/** As GNU tar writes a number that eleven octal digits do not hold; most readers of pax know that, too. */
function writeBinary(block: Buffer, value: number, at: number): void {
  block.writeUInt8(0x80, at);
  block.writeBigUInt64BE(BigInt(value), at + 4);
}

function paxOf(fields: Readonly<Record<string, string>>): Buffer {
  const records = Object.entries(fields).filter(([, value]) => value !== '');
  const body = Buffer.concat(records.map(([key, value]) => Buffer.from(recordOf(` ${key}=${value}\n`))));
  const meta = { path: 'pax', mode: 0o600, uid: 0, gid: 0, mtime: 0, type: 'x' };
  return Buffer.concat([blockOf({ ...meta, size: body.length }), body, tarPadding(body.length)]);
}

/** Its own length, in bytes and with its own digits, comes first. */
function recordOf(text: string): string {
  const rest = Buffer.byteLength(text);
  let length = rest + 1;
  while (`${length}`.length + rest !== length) length = `${length}`.length + rest;
  return `${length}${text}`;
}

export interface SparseEntry extends Omit<TarEntry, 'size' | 'type' | 'records' | 'target'> {
  /** Bytes of the file, holes included. */
  readonly size: number;
  /** What follows the header, in order and disjoint; all else is holes. */
  readonly spans: readonly { readonly offset: number; readonly length: number }[];
}

/**
 * The header of a file with holes, version 1.0 of GNU tar's format for pax: what GNU tar and bsdtar unpack as such. The bytes of the spans
 * follow it, and `tarPadding` of their sum.
 */
export function sparseHeader({ path, size, spans, ...entry }: SparseEntry): Buffer {
  const last = spans.at(-1);
  const reachesEnd = last !== undefined && last.offset + last.length === size;
  const map = reachesEnd ? spans : [...spans, { offset: size, length: 0 }];
  const numbers = [map.length, ...map.flatMap(({ offset, length }) => [offset, length])];
  const text = Buffer.from(numbers.map((each) => `${each}\n`).join(''), 'latin1');
  const data = spans.reduce((sum, { length }) => sum + length, 0);
  const whole = text.length + tarPadding(text.length).length + data;
  const records = {
    'GNU.sparse.major': '1',
    'GNU.sparse.minor': '0',
    'GNU.sparse.name': path,
    'GNU.sparse.realsize': `${size}`,
    // The header of old alone tells it: with a size of pax, Python's tarfile (3.11) looks for the next member in the wrong place.
    size: '',
  };
  const header = tarHeader({ ...entry, path: `GNUSparseFile.0/${path}`, size: whole, type: '0', records });
  return Buffer.concat([header, text, tarPadding(text.length)]);
}

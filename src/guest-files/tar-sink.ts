import type { FileSink } from './file-sink.js';
import type { LocatedFile } from './reader.js';

/** A tar archive (POSIX pax), written as it is read. */
export function tarSink(write: (bytes: Buffer) => Promise<void>): FileSink {
  const header = async (path: string, file: LocatedFile, type: string, size: number, target = ''): Promise<void> => {
    await write(
      paxOf({
        path,
        linkpath: target,
        size: `${size}`,
        uid: `${file.uid}`,
        gid: `${file.gid}`,
        mtime: `${file.mtime}`,
      }),
    );
    await write(
      blockOf({ name: path, mode: file.mode, uid: file.uid, gid: file.gid, size, mtime: file.mtime, type, target }),
    );
  };
  return {
    folder: (path, file) => header(`${path}/`, file, '5', 0),
    link: (path, file, target) => header(path, { ...file, mode: 0o777 }, '2', 0, target),
    file: async (path, file, read) => {
      await header(path, file, '0', file.size);
      await read(write);
      await write(Buffer.alloc((BLOCK - (file.size % BLOCK)) % BLOCK));
    },
    end: () => write(Buffer.alloc(2 * BLOCK)),
  };
}

const BLOCK = 512;
/** Of seven octal digits. */
const MOST = 0o7777777;

interface Header {
  readonly name: string;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly size: number;
  readonly mtime: number;
  readonly type: string;
  readonly target: string;
}

/** Whatever has no room here was told before, by `paxOf`. */
function blockOf({ name, mode, uid, gid, size, mtime, type, target }: Header): Buffer {
  const block = Buffer.alloc(BLOCK);
  const octal = (value: number, at: number, digits: number): void =>
    void block.write(value.toString(8).padStart(digits, '0'), at, digits, 'latin1');
  block.write(name, 0, 100);
  octal(mode & 0o7777, 100, 7);
  octal(Math.min(uid, MOST), 108, 7);
  octal(Math.min(gid, MOST), 116, 7);
  octal(Math.min(size, 0o77777777777), 124, 11);
  octal(Math.min(Math.max(0, mtime), 0o77777777777), 136, 11);
  block.write(`        ${type}`, 148, 'latin1');
  block.write(target, 157, 100);
  block.write('ustar\x0000', 257, 'latin1');
  let sum = 0;
  for (const byte of block) sum += byte;
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return block;
}

function paxOf(fields: Readonly<Record<string, string>>): Buffer {
  const records = Object.entries(fields).filter(([, value]) => value !== '');
  const body = Buffer.concat(records.map(([key, value]) => Buffer.from(recordOf(` ${key}=${value}\n`))));
  const filler = Buffer.alloc((BLOCK - (body.length % BLOCK)) % BLOCK);
  const meta = { name: 'pax', mode: 0o600, uid: 0, gid: 0, mtime: 0, type: 'x', target: '' };
  return Buffer.concat([blockOf({ ...meta, size: body.length }), body, filler]);
}

/** Its own length, in bytes and with its own digits, comes first. */
function recordOf(text: string): string {
  const rest = Buffer.byteLength(text);
  let length = rest + 1;
  while (`${length}`.length + rest !== length) length = `${length}`.length + rest;
  return `${length}${text}`;
}

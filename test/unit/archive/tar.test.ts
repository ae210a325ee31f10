import { describe, expect, it } from 'vitest';
import { sparseHeader, TAR_END, tarHeader, tarPadding } from '../../../src/archive/tar-headers.js';
import { TarReader } from '../../../src/archive/tar-reader.js';

const FILE = { mode: 0o600, uid: 0, gid: 0, mtime: 1_700_000_000.5, type: '0' };

function archiveOf(members: Readonly<Record<string, string>>): Buffer {
  const parts = Object.entries(members).flatMap(([path, text]) => {
    const bytes = Buffer.from(text);
    return [tarHeader({ ...FILE, path, size: bytes.length }), bytes, tarPadding(bytes.length)];
  });
  return Buffer.concat([...parts, TAR_END]);
}

async function readAll(bytes: Buffer, cut: number): Promise<Record<string, string>> {
  const chunks: Buffer[] = [];
  for (let at = 0; at < bytes.length; at += cut) chunks.push(bytes.subarray(at, at + cut));
  let seen = 0;
  const reader = new TarReader(streamOf(chunks), (each) => (seen += each.length));
  const found: Record<string, string> = {};
  for (let member = await reader.next(); member; member = await reader.next()) {
    let text = '';
    for await (const part of member.body()) text += part.toString();
    found[member.path] = text;
  }
  expect(seen).toBe(bytes.length);
  return found;
}

async function* streamOf(chunks: readonly Buffer[]): AsyncGenerator<Buffer> {
  for (const chunk of chunks) yield await Promise.resolve(chunk);
}

describe('the reader', () => {
  const members = { 'a.json': '{}', [`d1/${'x'.repeat(240)}`]: 'y'.repeat(1500), 'd1/ü': '', last: 'z'.repeat(512) };

  it.each([1, 7, 511, 512, 513, 100_000])('takes what the writer wrote, cut into pieces of %i bytes', async (cut) => {
    expect(await readAll(archiveOf(members), cut)).toEqual(members);
  });

  it('says of an archive that was cut anywhere that it was', async () => {
    const whole = archiveOf({ a: 'text', b: 'more' });
    for (let length = 0; length < whole.length; length += 64) {
      await expect(readAll(whole.subarray(0, length), 300)).rejects.toMatchObject({ code: 'damaged' });
    }
  });

  it('refuses links, members without pax, and headers that were changed', async () => {
    const link = Buffer.concat([tarHeader({ ...FILE, path: 'l', size: 0, type: '2', target: '/etc/passwd' }), TAR_END]);
    const bare = archiveOf({ a: 'text' }).subarray(1024);
    const changed = archiveOf({ a: 'text' });
    changed.writeUInt8(0x37, 1024 + 130);
    for (const bad of [link, bare, changed, Buffer.alloc(4096, 1)]) {
      await expect(readAll(bad, 512)).rejects.toMatchObject({ code: 'unsafe' });
    }
  });
});

it('a file with holes tells its length, its name and where its data are', () => {
  const spans = [
    { offset: 0, length: 65_536 },
    { offset: 131_072, length: 512 },
  ];
  const header = sparseHeader({ ...FILE, path: 'd1.raw', size: 200_000, spans });
  const text = header.toString('latin1');
  expect(text).toContain(' GNU.sparse.realsize=200000\n');
  expect(text).toContain(' GNU.sparse.name=d1.raw\n');
  // The map is a block of its own before the data; the hole at the end has an entry, too.
  expect(text.slice(-512).replace(/\0+$/, '')).toBe('3\n0\n65536\n131072\n512\n200000\n0\n');
  // What has room in the header of old is told there alone.
  expect(text).not.toContain(' size=');
  expect(parseInt(text.slice(-1024 + 124, -1024 + 135), 8)).toBe(512 + 65_536 + 512);
});

it('a file of more than eight GiB of data has its size where GNU tar puts it, and one without holes in pax, too', () => {
  const long = sparseHeader({ ...FILE, path: 'd1.raw', size: 9e12, spans: [{ offset: 0, length: 9e12 }] });
  const block = long.subarray(-1024, -512);
  expect([block.readUInt32BE(124), Number(block.readBigUInt64BE(128))]).toEqual([0x8000_0000, 512 + 9e12]);
  expect(long.toString('latin1')).not.toContain(' size=');
  expect(tarHeader({ ...FILE, path: 'FULL.qcow2', size: 9e12 }).toString('latin1')).toContain(' size=9000000000000\n');
});

import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { folderSink } from '../../src/guest-files/folder-sink.js';
import { ROOT } from '../../src/guest-files/reader.js';
import { tarSink } from '../../src/guest-files/tar-sink.js';

const dir = mkdtempSync(join(tmpdir(), 'sinks-'));
afterAll(() => rmSync(dir, { recursive: true }));
const FILE = { ...ROOT, kind: 'file', mode: 0o640, mtime: 1_600_000_000 } as const;

it('writes archives that tar reads: long names and targets, big owners, every length', async () => {
  const pieces: Buffer[] = [];
  const sink = tarSink((bytes) => Promise.resolve(void pieces.push(bytes)));
  const long = `${'ü'.repeat(90)}/${'n'.repeat(200)}`;
  await sink.folder('ü'.repeat(90), { ...FILE, kind: 'folder' });
  await sink.file(long, { ...FILE, size: 513, uid: 5_000_000 }, (take) => take(Buffer.alloc(513, 7)));
  await sink.file('empty', FILE, () => Promise.resolve());
  await sink.link('link', FILE, 't'.repeat(300));
  await sink.end();
  const input = Buffer.concat(pieces);
  expect(input.length % 512).toBe(0);
  const listed = execFileSync('tar', ['--numeric-owner', '--utc', '-tvf', '-'], {
    input,
    env: { ...process.env, LC_ALL: 'C.UTF-8' },
    encoding: 'utf8',
  });
  expect(listed).toContain(`-rw-r----- 5000000/0 `);
  expect(listed).toContain(` 513 2020-09-13 12:26 ${long}\n`);
  expect(listed).toContain(`link -> ${'t'.repeat(300)}\n`);
});

it('writes files whose names are those of others on the way, or as long as a name can be', async () => {
  const folder = join(dir, 'names');
  mkdirSync(folder);
  const sink = folderSink(folder);
  const names = ['x.partial', 'x', 'n'.repeat(255)];
  for (const name of names) await sink.file(name, { ...FILE, size: 1 }, (take) => take(Buffer.from(name[0] ?? '')));
  await sink.end();
  expect(readdirSync(folder).toSorted()).toEqual(names.toSorted());
  rmSync(folder, { recursive: true });
});

it('leaves nothing of a file that could not be read to its end, and writes through no link', async () => {
  const sink = folderSink(dir);
  const broken = sink.file('broken', { ...FILE, size: 2 }, async (take) => {
    await take(Buffer.from('a'));
    throw new Error('gone');
  });
  await expect(broken).rejects.toThrow('gone');
  execFileSync('ln', ['-s', '/', join(dir, 'up')]);
  await expect(sink.file('up/tmp/x', FILE, () => Promise.resolve())).rejects.toThrow('is there already');
  await expect(sink.link('up', FILE, 'x')).rejects.toThrow('is there already');
  expect(execFileSync('ls', ['-A', dir], { encoding: 'utf8' })).toBe('up\n');
});

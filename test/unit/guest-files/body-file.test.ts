import { expect, it } from 'vitest';
import { parseBodyLine } from '../../../src/guest-files/body-file.js';
import { parseStat } from '../../../src/guest-files/guestfs.js';
import { isSafeName } from '../../../src/guest-files/safe-name.js';

it('reads lines of fls, whatever the name', () => {
  expect(parseBodyLine('0|/a|b|1|r/rrwsr-x--t|1234|567|6|1|2|3|4', false)).toEqual({
    ...{ name: 'a|b|1', inode: '', device: '', kind: 'file', mode: 0, uid: 0, gid: 0, size: 0, mtime: 0, changed: 0 },
    ...{ name: 'a|b', inode: '1', mode: 0o5751, uid: 1234, gid: 567, size: 6, mtime: 2, changed: 3 },
  });
  expect(parseBodyLine('0|/etc|12|d/drwxr-xr-x|0|0|1024|1|2|3|4', false)).toMatchObject({
    kind: 'folder',
    mode: 0o755,
  });
  expect(parseBodyLine('0|/pipe|14|p/prw-r--r--|0|0|0|1|2|3|4', false)).toMatchObject({ kind: 'other' });
  expect(parseBodyLine('0|/$OrphanFiles|10241|V/V---------|0|0|0|0|0|0|0', false)).toBeNull();
  expect(() => parseBodyLine('Error in metadata', false)).toThrow('not understood');
});

it('leaves out the metadata, names and streams of NTFS', () => {
  const line = (name: string, inode: string): string => `0|/${name}|${inode}|r/rrwxrwxrwx|48|0|80|1|2|3|4`;
  expect(parseBodyLine(line('big.bin', '64-128-2'), true)).toMatchObject({ name: 'big.bin', inode: '64-128-2' });
  expect(parseBodyLine(line('big.bin ($FILE_NAME)', '64-48-3'), true)).toBeNull();
  expect(parseBodyLine(line('big.bin:stream', '64-128-5'), true)).toBeNull();
  expect(parseBodyLine(line('$MFT', '0-128-1'), true)).toBeNull();
});

it('reads what guestfish says of a file, and refuses what is no answer', () => {
  const text =
    'st_dev: 1\nst_ino: 7\nst_mode: 35305\nst_size: 6\nst_uid: 1\nst_gid: 2\nst_mtime_sec: 3\nst_ctime_sec: 4\n';
  expect(parseStat(text, 'x')).toMatchObject({
    kind: 'file',
    mode: 0o4751,
    size: 6,
    inode: '7',
    device: '1',
    mtime: 3,
    changed: 4,
  });
  expect(() => parseStat('none', 'x')).toThrow('guestfish said of x');
});

it('takes only names that a file here can have', () => {
  for (const name of ['a', '.a', '...', 'ü', 'a b', "'", '-rf']) expect(isSafeName(name)).toBe(true);
  for (const name of ['', '.', '..', 'a/b', '/', 'a\nb', 'a\0b', '\x1b[2J']) expect(isSafeName(name)).toBe(false);
});

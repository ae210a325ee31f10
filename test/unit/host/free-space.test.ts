import { expect, it } from 'vitest';
import { readStats } from '../../../src/host/free-space.js';

const stats = (type: bigint) => ({ type, bsize: 4096n, blocks: 1000n, bavail: 10n });

it('counts what this user may use, not what is kept for root', () => {
  expect(readStats(stats(0xef53n))).toEqual({ free: 40_960, total: 4_096_000, network: false });
});

it.each([
  ['ext4', 0xef53n, false],
  ['xfs', 0x58465342n, false],
  ['btrfs', 0x9123683en, false],
  ['tmpfs', 0x01021994n, false],
  ['nfs', 0x6969n, true],
  ['cifs', 0xff534d42n, true],
  // The kernel's field is a signed word on some platforms.
  ['cifs, signed', -11_317_950n, true],
  ['9p', 0x01021997n, true],
  ['fuse', 0x65735546n, true],
])('knows whether %s is a network away', (_name, type, network) => {
  expect(readStats(stats(type)).network).toBe(network);
});

import { describe, expect, it } from 'vitest';
import { isLocalBy, parseMounts } from '../../../src/host/mounts.js';
import { findMount, identityOfFolder } from '../../../src/storage-daemon/mount-record.js';

const mounts = parseMounts(String.raw`22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
24 22 0:22 / /tmp rw - tmpfs tmpfs rw
30 22 0:40 / /mnt/nas rw shared:9 - nfs4 nas:/export rw
31 22 0:41 / /mnt/my\040disk rw - fuse.sshfs user@host: rw
32 30 8:1 / /mnt/nas/usb rw - xfs /dev/sdb1 rw
33 22 0:43 / /hidden rw - nfs4 nas:/b rw
34 33 8:2 / /hidden rw - ext4 /dev/sdc1 rw
35 22 0:5 / /dev rw - devtmpfs udev rw
36 35 0:23 / /dev/shm rw - tmpfs tmpfs rw
`);
const links: Readonly<Record<string, string>> = {
  '/backup': '/mnt/nas/vm',
  '/var/backup': '../backup',
  '/home': '/srv/home',
  '/loop': '/loop',
};

function local(path: string): boolean {
  return isLocalBy(mounts, path, (at) => {
    // Nobody looks at what is on a mount that may hang.
    if (/^\/mnt\/(nas|my disk)(\/|$)/.test(at)) throw new Error(`${at} was touched`);
    return links[at];
  });
}

describe('a path is local', () => {
  it.each(['/', '/srv/x', '/tmp/x/y', '/mnt', '/mnt/nasty', '/home/u', '/hidden/x', '/loop/x', '/dev/shm/x'])(
    '%s',
    (path) => {
      expect(local(path)).toBe(true);
    },
  );
  it.each(['/mnt/nas', '/mnt/nas/vm/2026-11', '/mnt/my disk/x', '/backup', '/var/backup/vm'])('not %s', (path) => {
    expect(local(path)).toBe(false);
  });
  it('not what is mounted below a network mount: the way to it may hang', () => {
    expect(local('/mnt/nas/usb')).toBe(false);
  });
});

it('tells where a mount is by its device and its folder, wherever that was moved to, and by no other', () => {
  const folder = identityOfFolder('/usr');
  const moved = parseMounts(
    '31 22 0:41 / /usr/d1.raw rw - fuse /dev/fuse rw\n32 22 0:42 / /usr/d2.raw rw - fuse /dev/fuse rw\n',
  );
  expect(findMount({ path: '/old/d1.raw', device: '0:41' }, { folder }, moved)?.point).toBe('/usr/d1.raw');
  // Its number, given to another mount of that name.
  expect(findMount({ path: '/old/d1.raw', device: '0:41' }, { folder: identityOfFolder('/') }, moved)).toBeUndefined();
  expect(findMount({ path: '/usr/d1.raw', device: '0:43' }, { folder }, moved)).toBeUndefined();
  expect(findMount({ path: '/old/d1.raw', device: '0:42' }, { folder }, moved)).toBeUndefined();
  expect(findMount({ path: '/usr/d2.raw', device: null }, { folder: null }, moved)?.point).toBe('/usr/d2.raw');
  expect(findMount({ path: '/old/d2.raw', device: null }, { folder }, moved)).toBeUndefined();
});

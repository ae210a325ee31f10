import { readFileSync, readlinkSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { isWithinFolder } from '../core/within-folder.js';
import { codeOf } from './file-errors.js';

/**
 * Whether a path is on a file system of this host itself, told from the table of mounts: nothing on a mount that may
 * hang is touched to find out. Linux only; where there is no table, every path counts as local.
 */
export function isLocal(path: string): boolean {
  const table = mountTable();
  return table === undefined || isLocalBy(parseMounts(table), resolve(path), linkAt);
}

/** Type of the file system that a path is on, its links not followed; undefined where there is no table of mounts. */
export function mountedType(path: string): string | undefined {
  const table = mountTable();
  return table === undefined ? undefined : mountOf(parseMounts(table), resolve(path))?.type;
}

/** `major:minor` of the file system that a path leads to, its links followed. Nothing is touched that may hang, as by `isLocal`. */
export function mountedDevice(path: string): string | undefined {
  return mountLedTo(path)?.device;
}

/** Whether what lies in a folder is gone when the host restarts, its links followed. Nothing is touched that may hang, as by `isLocal`. */
export function isInMemory(folder: string): boolean {
  const type = mountLedTo(folder)?.type;
  return type === 'tmpfs' || type === 'ramfs';
}

/** `mountBehind` by the table of this host; undefined where there is none. */
function mountLedTo(path: string): Mount | undefined {
  const table = mountTable();
  return table === undefined ? undefined : mountBehind(parseMounts(table), resolve(path), linkAt);
}

export interface Mount {
  readonly point: string;
  readonly type: string;
  /** `major:minor`, as long as it is mounted the same wherever its folder is moved to. */
  readonly device: string;
}

/** What FUSE programs serve here. */
export function fuseMounts(): readonly Mount[] {
  return parseMounts(mountTable() ?? '').filter(({ type }) => type === 'fuse' || type.startsWith('fuse.'));
}

/** Those that answer as long as the kernel and its disks do. All others are behind a network or another process. */
const LOCAL = new Set(
  'ext2 ext3 ext4 xfs btrfs bcachefs f2fs jfs reiserfs zfs overlay tmpfs devtmpfs ramfs rootfs vfat exfat ntfs3 udf'.split(
    ' ',
  ),
);

/** Symbolic links may be followed from hop to hop; more than this is a loop. */
const MAX_LINKS = 40;

export function isLocalBy(...asked: Parameters<typeof mountBehind>): boolean {
  return isOfThisHost(mountBehind(...asked));
}

function isOfThisHost(mount: Mount | undefined): boolean {
  return LOCAL.has(mount?.type ?? 'ext4');
}

/** Where a path leads to, or the first on the way there that is not of this host. */
function mountBehind(
  mounts: readonly Mount[],
  path: string,
  linkAt: (path: string) => string | undefined,
  links = 0,
): Mount | undefined {
  const names = path.split('/').filter((name) => name !== '');
  for (let length = 0; length <= names.length; length += 1) {
    const at = `/${names.slice(0, length).join('/')}`;
    const mount = mountOf(mounts, at);
    if (!isOfThisHost(mount)) return mount;
    const to = length === 0 ? undefined : linkAt(at);
    if (to === undefined || links === MAX_LINKS) continue;
    return mountBehind(mounts, resolve(dirname(at), to, ...names.slice(length)), linkAt, links + 1);
  }
  return mountOf(mounts, path);
}

/** A later mount at the same place hides an earlier one. */
function mountOf(mounts: readonly Mount[], path: string): Mount | undefined {
  const above = mounts.filter(({ point }) => isWithinFolder(path, point));
  const longest = Math.max(...above.map(({ point }) => point.length));
  return above.findLast(({ point }) => point.length === longest);
}

/** The lines of /proc/self/mountinfo: `36 35 98:0 /root /point options … - type source options`, spaces as `\040`. */
export function parseMounts(table: string): readonly Mount[] {
  return table.split('\n').flatMap((line) => {
    const words = line.split(' ');
    const [device = '', point, type] = [words[2], words[4], words[words.indexOf('-') + 1]];
    if (point === undefined || type === undefined || !words.includes('-')) return [];
    const named = point.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8)));
    return [{ point: named, type, device }];
  });
}

function mountTable(): string | undefined {
  try {
    return readFileSync(join('/proc', 'self', 'mountinfo'), 'utf8');
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined;
    throw error;
  }
}

/** Where a symbolic link leads; undefined for what is no link, or cannot be read and is told elsewhere. */
function linkAt(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch (error) {
    if (codeOf(error) === undefined) throw error;
    return undefined;
  }
}

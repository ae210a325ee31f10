import type { GuestFile, GuestFileKind } from './reader.js';

/**
 * A line of `fls -m ''` (sleuthkit 4.11): `0|/name|inode|d/drwxr-xr-x|uid|gid|size|atime|mtime|ctime|crtime`. A name may
 * have `|` in it; control characters are `^` there. Null for what is no file of the guest's: sleuthkit's own entries, and
 * the metadata and streams of NTFS.
 */
export function parseBodyLine(line: string, isNtfs: boolean): GuestFile | null {
  const match = /^0\|\/?(.*)\|([\d-]+)\|(.)\/(.)(.{9})\|(\d+)\|(\d+)\|(\d+)\|(-?\d+)\|(-?\d+)\|(-?\d+)\|(-?\d+)$/.exec(
    line,
  );
  if (!match) throw new Error(`not understood: ${JSON.stringify(line)}`);
  const [, name = '', inode = '', ofName, ofInode, rights = '', uid, gid, size, , mtime, changed] = match;
  if (ofName === 'V' || ofName === 'v') return null;
  const [number, attribute] = inode.split('-').map(Number);
  if (isNtfs && (attribute === FILE_NAME || (number ?? 0) < FIRST_OF_USERS || name.includes(':'))) return null;
  return {
    ...{ name, inode, device: '', kind: KINDS[ofInode ?? ''] ?? 'other', mode: modeOf(rights) },
    ...{ uid: Number(uid), gid: Number(gid), size: Number(size), mtime: Number(mtime), changed: Number(changed) },
  };
}

/** NTFS: the attribute with the name, told as an entry of its own; and the first file that is not metadata. */
const FILE_NAME = 48;
const FIRST_OF_USERS = 24;

const KINDS: Readonly<Record<string, GuestFileKind>> = { r: 'file', d: 'folder', l: 'link' };

/** `rwsr-x--t` */
function modeOf(rights: string): number {
  let mode = 0;
  for (const [index, letter] of [...rights].entries()) {
    const special = index % 3 === 2 && /[sStT]/.test(letter);
    if (/[rwxst]/.test(letter)) mode |= 0o400 >> index;
    if (special) mode |= 0o4000 >> ((index - 2) / 3);
  }
  return mode;
}

/**
 * Reads single files of a guest's file systems. Names and links are what somebody in the guest has made: whoever writes
 * them to disk checks them first.
 */
export interface Volume {
  /** The disk that it is on; null for a logical volume, which may be on several. */
  readonly disk: string | null;
  /** `1`, the number of the partition; `whole` where the disk has no partitions; `/dev/vg/lv`. */
  readonly name: string;
  /** `ext`, `ntfs`, …; `unknown`. */
  readonly type: string;
  /** Bytes; null where it was not measured. */
  readonly size: number | null;
}

export type GuestFileKind = 'file' | 'folder' | 'link' | 'other';

export interface GuestFile {
  /** One component, as the file system has it; control characters may be told as `^`. */
  readonly name: string;
  readonly kind: GuestFileKind;
  /** Bytes. */
  readonly size: number;
  /** Permissions with setuid, setgid and sticky. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Seconds since 1970; `changed`: of the entry itself, 0 where the file system keeps none. */
  readonly mtime: number;
  readonly changed: number;
  /** How the file system knows it. */
  readonly inode: string;
  /** Of which file system, where a volume has several (btrfs); else empty. */
  readonly device: string;
}

/** A file with the way to it. */
export interface LocatedFile extends GuestFile {
  /** Absolute within the volume. */
  readonly path: string;
}

export interface GuestReader {
  /** What a user is told of. */
  readonly name: 'sleuthkit' | 'guestfs';
  /** All that it can read. */
  readonly volumes: () => Promise<readonly Volume[]>;
  /** Null where there is none. No link is followed. @throws QmpBackupError `failed` where the file system cannot be read */
  readonly find: (volume: Volume, path: string) => Promise<LocatedFile | null>;
  /** What is in a folder. */
  readonly list: (volume: Volume, folder: LocatedFile) => Promise<readonly LocatedFile[]>;
  readonly linkTarget: (volume: Volume, link: LocatedFile) => Promise<string>;
  /** All bytes of a file, in order. @throws QmpBackupError `failed` where they are not as many as it has */
  readonly read: (volume: Volume, file: LocatedFile, take: (bytes: Buffer) => Promise<void>) => Promise<void>;
}

/** Components of an absolute path, `.` and `..` resolved. */
export function componentsOf(path: string): readonly string[] {
  const found: string[] = [];
  for (const each of path.split('/')) {
    if (each === '..') found.pop();
    else if (each !== '' && each !== '.') found.push(each);
  }
  return found;
}

export function childOf({ path }: { readonly path: string }, name: string): string {
  return path === '/' ? `/${name}` : `${path}/${name}`;
}

export const ROOT: LocatedFile = {
  ...{
    path: '/',
    name: '',
    kind: 'folder',
    size: 0,
    mode: 0o755,
    uid: 0,
    gid: 0,
    mtime: 0,
    changed: 0,
    inode: '',
    device: '',
  },
};

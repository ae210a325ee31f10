import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { QmpBackupError } from '../errors.js';
import { runProgram } from '../host/program.js';
import { streamProgram } from '../host/stream-program.js';
import type { GuestfishSession } from './guestfish.js';
import {
  childOf,
  componentsOf,
  type GuestFile,
  type GuestFileKind,
  type GuestReader,
  type LocatedFile,
  ROOT,
  type Volume,
} from './reader.js';

/** All that the kernel of libguestfs's appliance knows: LVM, xfs, btrfs, and journals that have to be replayed. */
export function guestfsReader(
  session: GuestfishSession,
  /** In the order of `/dev/sda`, … */
  disks: readonly string[],
  /** For what is on the way. */
  folder: string,
  signal: AbortSignal,
): GuestReader {
  let mounted = '';
  const use = async ({ disk, name }: Volume): Promise<void> => {
    const device = disk === null ? name : `${deviceOf(disks.indexOf(disk))}${name === 'whole' ? '' : name}`;
    if (device === mounted) return;
    if (mounted !== '') await session.ask('umount-all');
    mounted = '';
    await session.ask('mount-ro', device, '/');
    mounted = device;
  };
  const stat = async (path: string, name: string): Promise<LocatedFile> => ({
    ...parseStat(await session.ask('lstatns', path), name),
    path,
  });
  const namesIn = async (path: string): Promise<readonly string[]> => {
    const listed = join(folder, 'names');
    // With zeros between them: a name may have a newline.
    await session.ask('ls0', path, listed);
    const names = (await readFile(listed, 'utf8')).split('\0').filter((name) => name !== '');
    await rm(listed, { force: true });
    return names;
  };
  const pipe = join(folder, 'content');
  let made: Promise<unknown> | undefined;
  /** A file of any size goes through a named pipe, and is copied nowhere. */
  const throughPipe = async (path: string, take: (chunk: Buffer) => Promise<void>): Promise<void> => {
    await (made ??= makePipe(pipe));
    const refused = new AbortController();
    const given = session.give('download', path, pipe).catch((error: unknown) => {
      // Nobody writes to the pipe any more.
      refused.abort();
      return error;
    });
    // What fails here comes first: guestfish fails of it, too.
    const { exitCode, stderr } = await streamProgram('cat', [pipe], AbortSignal.any([signal, refused.signal]), take);
    const error = await given;
    signal.throwIfAborted();
    if (error instanceof Error) throw error;
    if (exitCode !== 0) throw new QmpBackupError('failed', `${path} cannot be read: cat: ${stderr.trim()}`);
  };
  return {
    name: 'guestfs',
    volumes: async () => {
      const lines = (await session.ask('list-filesystems')).split('\n').filter((line) => line !== '');
      return lines.flatMap((line) => volumeOf(line, disks));
    },
    find: async (volume, path) => {
      await use(volume);
      let at: LocatedFile = ROOT;
      for (const name of componentsOf(path)) {
        if (at.kind !== 'folder' || !(await namesIn(at.path)).includes(name)) return null;
        at = await stat(childOf(at, name), name);
      }
      return at;
    },
    list: async (volume, folderOfGuest) => {
      await use(volume);
      const files: LocatedFile[] = [];
      for (const name of await namesIn(folderOfGuest.path)) {
        const path = childOf(folderOfGuest, name);
        // Not UTF-8: guestfish could not be asked for it.
        files.push(name.includes('\ufffd') ? { ...ROOT, kind: 'other', name, path } : await stat(path, name));
      }
      return files;
    },
    linkTarget: async (volume, { path }) => {
      await use(volume);
      return (await session.ask('readlink', path)).replace(/\n$/, '');
    },
    read: async (volume, { path, size }, take) => {
      await use(volume);
      let bytes = 0;
      await throughPipe(path, async (chunk) => {
        bytes += chunk.length;
        await take(chunk);
      });
      if (bytes !== size) {
        throw new QmpBackupError('failed', `${path} cannot be read: it has ${size} bytes, and ${bytes} could be read`);
      }
    },
  };
}

async function makePipe(path: string): Promise<void> {
  const { exitCode, stderr, failure } = await runProgram('mkfifo', ['-m', '600', path], { timeoutMs: PIPE_MS });
  if (exitCode !== 0) throw new QmpBackupError('failed', `no pipe can be made: ${failure?.message ?? stderr.trim()}`);
}

const PIPE_MS = 30_000;

function deviceOf(index: number): string {
  let letters = '';
  for (let rest = index + 1; rest > 0; rest = Math.floor((rest - 1) / 26)) {
    letters = String.fromCharCode(97 + ((rest - 1) % 26)) + letters;
  }
  return `/dev/sd${letters}`;
}

/** `/dev/sda1: ext4`, `/dev/vg/lv: xfs`, `btrfsvol:/dev/sda1/sub: btrfs`; swap and the like are no file systems. */
function volumeOf(line: string, disks: readonly string[]): readonly Volume[] {
  const [, device = '', type = ''] = /^(\/dev\/.*): (\S+)$/.exec(line) ?? [];
  if (device === '' || type === 'swap' || type === 'unknown' || type.startsWith('crypto')) return [];
  const named = disks.find((_, index) => new RegExp(`^${deviceOf(index)}\\d*$`).test(device));
  if (named === undefined) return [{ disk: null, name: device, type, size: null }];
  return [{ disk: named, name: /\d+$/.exec(device)?.[0] ?? 'whole', type, size: null }];
}

/** Lines such as `st_size: 6`. */
export function parseStat(text: string, name: string): GuestFile {
  const field = (key: string): number => Number(new RegExp(`^\\s*st_${key}: (-?\\d+)$`, 'm').exec(text)?.[1] ?? NaN);
  const mode = field('mode');
  if (Number.isNaN(mode)) throw new QmpBackupError('failed', `guestfish said of ${name}: ${text.slice(0, 200)}`);
  return {
    ...{ name, kind: KINDS[mode & 0o170000] ?? 'other', mode: mode & 0o7777, size: field('size'), uid: field('uid') },
    ...{ gid: field('gid'), mtime: field('mtime_sec'), changed: field('ctime_sec'), inode: String(field('ino')) },
    device: String(field('dev')),
  };
}

const KINDS: Readonly<Record<number, GuestFileKind>> = { 0o100000: 'file', 0o040000: 'folder', 0o120000: 'link' };

import { close, open, read } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { FILE_SYSTEM_START, fileSystemOf, type FoundFileSystem } from '../../core/file-system-type.js';
import { refuseFindings } from '../../core/point-findings.js';
import { type Partition, readPartitions } from '../../core/partitions.js';
import { messageOf, QmpBackupError } from '../../errors.js';
import type { Unwind } from '../../flow/unwind.js';
import { thisProcess } from '../../host/lock-owner.js';
import { runProgram } from '../../host/program.js';
import { type GuestDisk, startGuestfish } from '../../guest-files/guestfish.js';
import { guestfsReader } from '../../guest-files/guestfs.js';
import type { GuestReader, Volume } from '../../guest-files/reader.js';
import { type PlainVolume, sleuthkitReader } from '../../guest-files/sleuthkit.js';
import { createImage } from '../../host/empty-image.js';
import type { OpenPoint } from '../../repository/open-point.js';
import { chooseMountpoint, type FuseMount } from '../../storage-daemon/fuse-mount.js';
import { makePrivateFolder, removePrivateFolder } from '../../storage-daemon/private-folder.js';
import { openProved, type ProvedBytes } from '../../proved-bytes/open-proved.js';

/** The file systems of a point's disks, and who reads them. */
export interface OpenFiles {
  /** By what their first bytes say, in the order of disks and partitions. */
  readonly found: readonly FoundVolume[];
  /** Of these. */
  readonly sleuthkit: (volumes: readonly FoundVolume[]) => Promise<GuestReader>;
  /** Starts its appliance, once. */
  readonly guestfs: () => Promise<GuestReader>;
  /** That all that was read until now is what was backed up. @throws QmpBackupError `damaged` */
  readonly prove: () => Promise<void>;
}

export interface FoundVolume extends Volume, FoundFileSystem {
  readonly type: FoundFileSystem['type'];
  readonly disk: string;
  readonly offset: number;
  readonly size: number;
}

export interface OpenFilesOptions {
  /** See `prove`; false: nothing is proved. */
  readonly verify: boolean;
  readonly signal: AbortSignal;
  /** It will take a minute. */
  readonly onSlow: () => void;
}

const SLEUTHKIT: ReadonlySet<string> = new Set(['ext', 'ntfs', 'vfat']);

export function isForSleuthkit({ type }: FoundVolume): boolean {
  return SLEUTHKIT.has(type);
}

/**
 * Disks lie under overlays that are thrown away: an ext file system of a guest that ran has its newest changes in its journal
 * alone, and e2fsck brings them in there.
 */
export async function openFiles(
  point: OpenPoint,
  { verify, signal, onSlow }: OpenFilesOptions,
  unwind: Unwind,
): Promise<OpenFiles> {
  const folder = await makePrivateFolder(thisProcess(`files of ${point.name}`));
  unwind.defer(() => removePrivateFolder(folder));
  const overlays = new Map<string, { readonly path: string }>();
  for (const [index, { disk, chain, entry }] of point.disks.entries()) {
    const path = join(folder, `overlay${index}.qcow2`);
    await createImage(path, { size: entry.virtualSize, backing: chain.at(-1)?.path });
    overlays.set(disk, { path });
  }
  const bytes = await openProved(point, { what: `files of ${point.name}`, overlays, verify, signal }, unwind);
  const mount = await bytes.serveFuse(await chooseMountpoint(join(folder, 'disks')));
  const found: FoundVolume[] = [];
  const images: GuestDisk[] = [];
  for (const [index, { disk, path }] of mount.files.entries()) {
    const { sector, volumes } = await findVolumes(disk, path, point.disks[index]?.entry.virtualSize ?? 0);
    found.push(...volumes);
    images.push({ path, sector });
  }
  let guestfs: Promise<GuestReader> | undefined;
  return {
    found,
    sleuthkit: async (volumes) => {
      const plain: PlainVolume[] = [];
      for (const volume of volumes) plain.push(await placeOf(volume, bytes, mount, signal));
      return sleuthkitReader(plain, signal);
    },
    guestfs: () => (guestfs ??= startGuestfs()),
    prove: async () => refuseFindings(await bytes.prove(signal)),
  };

  async function startGuestfs(): Promise<GuestReader> {
    onSlow();
    const scratch = join(folder, 'guestfs');
    await mkdir(scratch);
    const session = await startGuestfish({ images, folder: scratch, signal });
    unwind.defer(() => session.close());
    return guestfsReader(
      session,
      mount.files.map(({ disk }) => disk),
      scratch,
      signal,
    );
  }
}

interface FoundVolumes {
  /** Bytes of the sectors of the disk. */
  readonly sector: number;
  readonly volumes: readonly FoundVolume[];
}

async function findVolumes(disk: string, path: string, size: number): Promise<FoundVolumes> {
  const fd = await promisify(open)(path, 'r');
  try {
    const readAt = async (offset: number, length: number): Promise<Uint8Array> => {
      const { bytesRead, buffer } = await promisify(read)(fd, Buffer.alloc(length), 0, length, offset);
      return buffer.subarray(0, bytesRead);
    };
    const { sector, partitions } = await readPartitions(readAt, size);
    const places: readonly (Omit<Partition, 'number'> & { readonly name: string })[] =
      partitions.length === 0
        ? [{ name: 'whole', offset: 0, length: size }]
        : partitions.map(({ number, ...place }) => ({ ...place, name: `${number}` }));
    const found: FoundVolume[] = [];
    for (const { name, offset, length } of places) {
      const start = await readAt(offset, Math.min(FILE_SYSTEM_START, length));
      found.push({ disk, name, offset, size: length, ...fileSystemOf(start) });
    }
    return { sector, volumes: found };
  } finally {
    await promisify(close)(fd);
  }
}

const E2FSCK_MS = 600_000;
/** Bits of its exit code: it has corrected something. */
const CORRECTED = 3;

async function placeOf(
  volume: FoundVolume,
  bytes: ProvedBytes,
  mount: FuseMount,
  signal: AbortSignal,
): Promise<PlainVolume> {
  const { disk, name, type, offset, size } = volume;
  const image = mount.files.find((each) => each.disk === disk)?.path ?? '';
  if (!volume.journal) return { disk, name, type, size, image, offset };
  const path = await mount.addFile(`${disk}-${name}`, await bytes.addWindow(disk, { offset, length: size }));
  const args = ['-y', '-E', 'journal_only', path];
  const end = await runProgram('e2fsck', args, { env: withSbin(), timeoutMs: E2FSCK_MS, signal });
  signal.throwIfAborted();
  if (end.exitCode === null || (end.exitCode & ~CORRECTED) !== 0) {
    const words = end.failure
      ? messageOf(end.failure)
      : (end.stderr.trim() || end.stdout.trim()).replace(/\s*\n\s*/g, '; ');
    throw new QmpBackupError('failed', `the journal of ${disk}, partition ${name}, cannot be replayed: ${words}`, {
      hint: 'It needs e2fsck (apt install e2fsprogs). The other reader replays it by itself: --reader guestfs',
    });
  }
  return { disk, name, type, size, image: path, offset: 0 };
}

/** A user of Debian does not have it in their PATH. */
function withSbin(): NodeJS.ProcessEnv {
  return { ...process.env, LC_ALL: 'C', PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin` };
}

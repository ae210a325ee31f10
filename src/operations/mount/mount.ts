import { close, fstat, open, read } from 'node:fs';
import { promisify } from 'node:util';
import { contextOf, type VerbContext, type WarningEvent } from '../../backends/verb-context.js';
import type { Warn } from '../../core/warning.js';
import { QmpBackupError } from '../../errors.js';
import { aborted } from '../../flow/aborted.js';
import { unwinding } from '../../flow/unwind.js';
import { fileError } from '../../host/file-errors.js';
import { refuseBackupFolder } from '../../repository/nesting.js';
import { openForLong } from '../../repository/open-for-long.js';
import { realTarget } from '../../repository/real-target.js';
import { chooseMountpoint } from '../../storage-daemon/fuse-mount.js';
import { sweepPrivateFolders } from '../../storage-daemon/private-folder.js';
import { openProved, provingUntil } from '../../proved-bytes/open-proved.js';
import { mountOptions, type MountRequest } from './options.js';

/** The disks of a point as raw files, for as long as somebody wants them. The backup is only read. */
export type MountEvent =
  | WarningEvent
  /** The files are there. */
  | { readonly kind: 'mounted'; readonly mounted: MountResult };

export interface MountedDisk {
  readonly disk: string;
  /** Absolute path of the raw file. */
  readonly path: string;
  /** Bytes. */
  readonly virtualSize: number;
  /** The files that it is read from, FULL first. */
  readonly files: readonly string[];
}

export interface MountResult {
  readonly target: string;
  /** The point in words. */
  readonly point: string;
  /** Absolute and real. */
  readonly mountpoint: string;
  readonly disks: readonly MountedDisk[];
}

export type MountContext = VerbContext<MountEvent>;

/**
 * Reports `mounted` when the files can be read, and ends when the signal aborts, or somebody has unmounted all of them:
 * from then on as it should, before by the signal's reason.
 *
 * @throws QmpBackupError `usage`, `no-catalog`, `locked`; `unsafe` for the folder; `unsafe` or `damaged` for what is wrong
 * with the point, by name, or at the end where bytes were read that are not those of the backup; `failed` where the daemon cannot open or mount the files, or dies
 */
export function mount(request: MountRequest, given: Partial<MountContext> = {}): Promise<MountResult> {
  return unwinding(async (unwind) => {
    const [options, context] = [mountOptions(request), contextOf(given)];
    const { signal } = context;
    const warn: Warn = (said) => context.report({ kind: 'warning', ...said });
    const target = await realTarget(options.target);
    // A mount there that was killed is in the way no more.
    await sweepPrivateFolders();
    const mountpoint = await chooseMountpoint(options.mountpoint);
    await refuseBackupFolder(mountpoint.path);
    const { breakLock, disks } = options;
    const opening = { target, verb: 'mount', breakLock, signal, warn };
    const point = await openForLong({ point: options.point, at: options.at, disks }, opening, unwind);
    const what = `mount of ${point.name} at ${mountpoint.path}`;
    const bytes = await openProved(point, { what, verify: options.verify, signal }, unwind);
    const { files, unmounted } = await bytes.serveFuse(mountpoint);
    const mounted: MountResult = {
      ...{ target, point: point.name, mountpoint: mountpoint.path },
      disks: point.disks.map(({ disk, entry, chain }) => ({
        ...{ disk, path: files.find((file) => file.disk === disk)?.path ?? '', virtualSize: entry.virtualSize },
        files: chain.map((each) => each.entry.file),
      })),
    };
    for (const { path, virtualSize } of mounted.disks) await checkMounted(path, virtualSize);
    signal.throwIfAborted();
    context.report({ kind: 'mounted', mounted });
    const died = await provingUntil(bytes, Promise.race([bytes.ended, aborted(signal), unmounted]), warn);
    if (died) throw died;
    return mounted;
  });
}

const END = 512;

/**
 * Its size, its beginning and its end. By plain descriptors: what node does with a handle whose `close` fails, as it does
 * where the daemon has died, ends the process.
 */
async function checkMounted(path: string, virtualSize: number): Promise<void> {
  let size: number;
  try {
    const fd = await promisify(open)(path, 'r');
    try {
      ({ size } = await promisify(fstat)(fd));
      for (const at of [0, Math.max(0, size - END)]) await promisify(read)(fd, Buffer.alloc(END), 0, END, at);
    } finally {
      await promisify(close)(fd);
    }
  } catch (error) {
    throw fileError('read', path, error);
  }
  if (size !== virtualSize)
    throw new QmpBackupError('failed', `${path} has ${size} bytes, and the disk ${virtualSize}`);
}

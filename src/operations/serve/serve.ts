import { resolve } from 'node:path';
import { contextOf, type VerbContext, type WarningEvent } from '../../backends/verb-context.js';
import { nbdUri } from '../../core/nbd-uri.js';
import type { Warn } from '../../core/warning.js';
import { aborted } from '../../flow/aborted.js';
import { Unwind, unwinding } from '../../flow/unwind.js';
import { makeFolder } from '../../repository/make-folder.js';
import { refuseBackupFolder } from '../../repository/nesting.js';
import { openForLong } from '../../repository/open-for-long.js';
import { realTarget } from '../../repository/real-target.js';
import { openProved, provingUntil } from '../../proved-bytes/open-proved.js';
import { serveOptions, type ServeRequest } from './options.js';
import { type Overlay, prepareOverlays } from '../../repository/overlays.js';

/** The disks of a point over NBD, for as long as somebody wants them. The backup is only read. */
export type ServeEvent =
  | WarningEvent
  /** Clients are welcome. */
  | { readonly kind: 'serving'; readonly serving: ServeResult };

export interface ServedDisk {
  readonly disk: string;
  /** For `nbdcopy`, `qemu-img`, … */
  readonly uri: string;
  /** Bytes. */
  readonly virtualSize: number;
  /** Absolute path of the image that takes what is written; null where the disk is read-only. */
  readonly overlay: string | null;
  /** The files that it is read from, FULL first. */
  readonly files: readonly string[];
}

export interface ServeResult {
  readonly target: string;
  /** The point in words. */
  readonly point: string;
  readonly disks: readonly ServedDisk[];
}

export type ServeContext = VerbContext<ServeEvent>;

/**
 * Reports `serving` when it serves, and ends when the signal aborts: from then on as it should, before by its reason.
 *
 * @throws QmpBackupError `usage`, `no-catalog`, `locked`; `unsafe` or `damaged` for what is wrong with the point, by name;
 * `failed` where the daemon cannot open the files, or dies; `damaged` at the end where bytes were read that are not those of the backup
 */
export function serve(request: ServeRequest, given: Partial<ServeContext> = {}): Promise<ServeResult> {
  return unwinding(async (unwind) => {
    const [options, context] = [serveOptions(request), contextOf(given)];
    const { signal } = context;
    const warn: Warn = (said) => context.report({ kind: 'warning', ...said });
    const target = await realTarget(options.target);
    const { breakLock } = options;
    const asked = { point: options.point, at: options.at, disks: options.disks };
    const point = await openForLong(asked, { target, verb: 'serve', breakLock, signal, warn }, unwind);
    const overlays = options.overlay === null ? undefined : await overlaysIn(options.overlay);
    const { verify } = options;
    const opening = { what: `serve of ${point.name}`, overlays, plain: !overlays, verify, signal };
    const bytes = await openProved(point, opening, unwind);
    const address = await bytes.serveNbd(options.port);
    const serving: ServeResult = {
      ...{ target, point: point.name },
      disks: point.disks.map(({ disk, entry, chain }) => ({
        ...{ disk, uri: nbdUri({ address, exportName: disk }), virtualSize: entry.virtualSize },
        ...{ overlay: overlays?.get(disk)?.path ?? null, files: chain.map((each) => each.entry.file) },
      })),
    };
    signal.throwIfAborted();
    context.report({ kind: 'serving', serving });
    const died = await provingUntil(bytes, Promise.race([bytes.ended, aborted(signal)]), warn);
    if (died) throw died;
    return serving;

    async function overlaysIn(folder: string): Promise<ReadonlyMap<string, Overlay>> {
      const path = resolve(folder);
      await refuseBackupFolder(path);
      // It stays, as what is in it.
      await makeFolder(path, new Unwind());
      return prepareOverlays(path, point);
    }
  });
}

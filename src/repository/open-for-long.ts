import type { PointRequest } from '../core/restore-plan.js';
import { refuseFindings } from '../core/point-findings.js';
import { type Warn, warning } from '../core/warning.js';
import type { Unwind } from '../flow/unwind.js';
import type { LockOwner } from '../host/lock-owner.js';
import { lockForReading, takesNothing, withoutLock } from './disk-folder.js';
import { lockTarget } from './lock.js';
import { clearDeadMarks, leaveMark } from './open-mark.js';
import { type OpenPoint, openPoint } from './open-point.js';

export interface OpenForLong {
  readonly target: string;
  readonly verb: string;
  /** Whose the mark is, where that is not this process; `what`: for whoever finds it. */
  readonly ownerOf?: ((what: string) => LockOwner) | undefined;
  /** What ends it, for whoever finds the mark, where that is not the end of its process. */
  readonly release?: ((point: OpenPoint) => string) | undefined;
  readonly breakLock: boolean;
  readonly signal: AbortSignal;
  readonly warn: Warn;
}

/**
 * Opens a point whose files stay open for long. The target's lock is held for the look alone, so that backups go on, and any
 * number of others may open points at the same instant, one after the other; what
 * stays, until `unwind`, is a mark that keeps a rebase from those files. A target that takes no lock takes no mark either.
 *
 * @throws QmpBackupError what `refuseFindings` makes of the point
 */
export async function openForLong(
  request: PointRequest,
  { target, verb, ownerOf, release, breakLock, signal, warn }: OpenForLong,
  unwind: Unwind,
): Promise<OpenPoint> {
  const lock = await lockForReading(lockTarget, target, { breakLock, purpose: verb, lookUntil: signal }, warn);
  try {
    const looking = lock ? AbortSignal.any([signal, lock.signal]) : signal;
    const point = await openPoint(target, request, { signal: looking });
    refuseFindings(point.findings);
    for (const { code, what } of point.findings) if (code === 'suspect') warn(warning('suspect', what));
    if (!lock) return point;
    const what = `${verb} of ${point.name}`;
    const files = point.disks.flatMap(({ disk, chain }) => chain.map(({ entry }) => `${disk}/${entry.file}`));
    await markOpenFiles(target, { what, files, owner: ownerOf?.(what), release: release?.(point), warn }, unwind);
    looking.throwIfAborted();
    return point;
  } finally {
    await lock?.release();
  }
}

interface FilesToMark {
  /** What has them open, for people. */
  readonly what: string;
  /** `<disk>/<file>` */
  readonly files: readonly string[];
  readonly owner?: LockOwner | undefined;
  readonly release?: string | undefined;
  readonly warn: Warn;
}

/** Until `unwind` files are open, and neither merged nor removed. For who holds the target's lock. */
export async function markOpenFiles(
  target: string,
  { what, files, owner, release, warn }: FilesToMark,
  unwind: Unwind,
): Promise<void> {
  await clearDeadMarks(target);
  try {
    unwind.defer(await leaveMark(target, what, files, owner, release));
  } catch (error) {
    // There was room for the lock, and is none for the mark.
    if (!takesNothing(error)) throw error;
    warn(withoutLock(target, error));
  }
}

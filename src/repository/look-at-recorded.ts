import { counted } from '../core/counted.js';
import { isFault, type FileFault } from '../core/file-record.js';
import { hasDigest, pieceCount } from '../core/pieces.js';
import { linkOf, type PointDisk } from '../core/point.js';
import { QmpBackupError } from '../errors.js';
import { codeOf } from '../host/file-errors.js';
import { QemuImgMissing } from '../qemu-tools/runner.js';
import { check } from '../qemu-tools/steps.js';
import { checkHeader, type ExpectedHeader, whyDamaged } from './check-file.js';
import { type DigestOptions, readPieces } from './digest.js';
import { lookAtFile } from './file-state.js';

/** What can be told of one recorded image without reading all of it, and what only that tells. */
export interface RecordedLook {
  readonly fault: FileFault | undefined;
  /** Modification time, in milliseconds; undefined where it could not be looked at. */
  readonly mtimeMs: number | undefined;
  /** Its time is another than recorded. */
  readonly touched: boolean;
  /** It has a link that a rebase, which was interrupted, has given it: its bytes are others, and rightly so. */
  readonly relinked: boolean;
  /** Clusters that are counted and not used. */
  readonly leaks: number;
}

interface LookOptions {
  readonly signal: AbortSignal;
  /** The FULL into which an interrupted rebase was merging; null for none. */
  readonly mergingInto: string | null;
}

const NOTHING = { mtimeMs: undefined, touched: false, relinked: false, leaks: 0 };

/** Its size, its header with the files that it names, and `qemu-img check` of it by itself. Only an abort is thrown. */
export async function lookAtRecorded(
  path: string,
  entry: PointDisk,
  { signal, mergingInto }: LookOptions,
): Promise<RecordedLook> {
  // What a merge is being written into has neither its old size nor its new one.
  if (entry.file === mergingInto) {
    const header = await checkHeader(path, { links: [null], virtualSize: 0, grownTo: Number.MAX_SAFE_INTEGER });
    return { ...NOTHING, fault: isFault(header) ? header : undefined };
  }
  const seen = await lookAtFile(path, entry);
  if (isFault(seen)) return { ...NOTHING, fault: seen };
  const links = mergingInto === null ? [linkOf(entry)] : [linkOf(entry), mergingInto];
  const expected: ExpectedHeader = { links, virtualSize: entry.virtualSize };
  const header = await checkHeader(path, expected);
  if (isFault(header)) return { ...NOTHING, ...seen, fault: header };
  const relinked = header.backingFile !== linkOf(entry);
  const { fault, leaks } = await checkClusters(path, signal);
  return { ...seen, relinked, fault, leaks };
}

/** `qemu-img check` of an image whose header was looked at. */
async function checkClusters(
  path: string,
  signal: AbortSignal,
): Promise<{ readonly fault: FileFault | undefined; readonly leaks: number }> {
  try {
    const { corruptions, checkErrors, leaks } = await check(path, { signal });
    if (corruptions + checkErrors === 0) return { fault: undefined, leaks };
    const what =
      corruptions > 0 ? counted(corruptions, 'error') : `${counted(checkErrors, 'place')} that cannot be checked`;
    return { fault: { code: 'corrupt', why: `qemu-img check finds ${what} in it` }, leaks };
  } catch (error) {
    signal.throwIfAborted();
    if (!(error instanceof QmpBackupError) || error instanceof QemuImgMissing) throw error;
    const code = NOT_OF_THE_FILE.test(error.message) ? 'unreadable' : 'corrupt';
    return { fault: { code, why: error.message }, leaks: 0 };
  }
}

/**
 * Why qemu-img could not read an image that may be whole, in its words: the storage failed, or qemu-img did, which was ended or
 * found no memory or no room for another process.
 */
const NOT_OF_THE_FILE = new RegExp(
  [
    ...['Input/output error', 'Permission denied', 'Operation not permitted', 'Stale file handle', 'No such file'],
    ...['Failed to get .*lock', 'did not end within', 'ended with SIG', 'Cannot allocate memory', 'EAGAIN', 'ENOMEM'],
    ...['Resource temporarily unavailable', 'Too many open files', 'EMFILE', 'error while loading shared libraries'],
    ...['Connection timed out', 'Transport endpoint', 'Host is down', 'Remote I/O error'],
  ].join('|'),
);

/**
 * Reads what was found damaged before: undefined where it is right by now. What has no digest is as `qemu-img check` says.
 * Only an abort is thrown.
 */
export async function whyStillDamaged(
  path: string,
  entry: PointDisk,
  { signal = new AbortController().signal, ...options }: DigestOptions,
): Promise<FileFault | undefined> {
  if (hasDigest(entry)) return whyDamaged(path, entry, { signal, ...options });
  return (await lookAtRecorded(path, entry, { signal, mergingInto: null })).fault;
}

/** Why the list of a file's pieces is of no use; undefined where it is right, or none is needed. */
export async function whyNoPieceList(path: string, { size, pieces }: PointDisk): Promise<string | undefined> {
  const count = pieces ? pieceCount(size, pieces.bytes) : 0;
  if (!pieces || count <= 1) return undefined;
  try {
    return (await readPieces(path, pieces, count)) ? undefined : 'it is missing, or not the one that was recorded';
  } catch (error) {
    if (error instanceof QmpBackupError || codeOf(error) !== undefined) return `it cannot be read`;
    throw error;
  }
}

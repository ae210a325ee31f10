import { type FileFault, isFault, type SeenFile } from '../core/file-record.js';
import { type LinkFault, linkFault } from '../core/header-link.js';
import { hasDigest } from '../core/pieces.js';
import type { PointDisk } from '../core/point.js';
import type { Qcow2Header } from '../core/qcow2-header.js';
import { QmpBackupError } from '../errors.js';
import { fileError } from '../host/file-errors.js';
import { readHeader } from '../qemu-tools/examine.js';
import { type DigestFault, type DigestOptions, findDigestFault } from './digest.js';
import { lookAtFile } from './file-state.js';

/** What is wrong with one image of a target. Only an abort is thrown; also what cannot be read is a fault. */

export interface ExpectedHeader {
  /** Backing links that are in order; null is none. */
  readonly links: readonly (string | null)[];
  /** Bytes of the disk. */
  readonly virtualSize: number;
  /** Where it may have grown, the most that it may have. */
  readonly grownTo?: number;
}

/** The header of the image at `path`, or what is wrong with it. */
export async function checkHeader(path: string, expected: ExpectedHeader): Promise<Qcow2Header | FileFault> {
  const header = await headerOf(path);
  if (isFault(header)) return header;
  const { links, virtualSize, grownTo = virtualSize } = expected;
  const fault = linkFault(header, links);
  if (fault) return { code: 'other-link', why: inWords(fault, links) };
  if (header.virtualSize >= virtualSize && header.virtualSize <= grownTo) return header;
  const why = `it is a disk of ${header.virtualSize} bytes, the catalog says ${virtualSize}`;
  return { code: 'other-disk-size', why };
}

async function headerOf(path: string): Promise<Qcow2Header | FileFault> {
  try {
    return await readHeader(path, 'it');
  } catch (error) {
    if (!(error instanceof QmpBackupError)) throw error;
    if (error.code === 'failed') return unreadable(path, error.cause);
    return { code: error.code === 'damaged' ? 'no-image' : 'not-a-file', why: error.message };
  }
}

function inWords({ kind, name }: LinkFault, links: readonly (string | null)[]): string {
  if (kind === 'data-file') return `its header names an external data file (${name ?? 'without a name'})`;
  if (kind === 'format') return `the format of its backing file is ${name ?? 'not given'}, it must be qcow2`;
  return `its backing file is ${name ?? 'none'}, the catalog says ${links.map((each) => each ?? 'none').join(' or ')}`;
}

/** Whether the file is what was sealed: it is there with the recorded size, and with the recorded time or digest. */
export async function whyAltered(
  path: string,
  entry: PointDisk,
  options: DigestOptions,
): Promise<FileFault | undefined> {
  const seen = await lookAtFile(path, entry);
  return isFault(seen) ? seen : whyTouched(path, entry, seen, options);
}

/** The second half of `whyAltered`, which reads the whole file if it was touched. */
export async function whyTouched(
  path: string,
  entry: PointDisk,
  { touched }: SeenFile,
  options: DigestOptions,
): Promise<FileFault | undefined> {
  if (!touched) return undefined;
  const why = 'it was modified after it was sealed';
  if (!hasDigest(entry)) return { code: 'altered', why: `${why}, and there is no digest to compare it with` };
  const found = await faultOf(path, entry, options);
  return found === undefined || isFault(found) ? found : { code: 'altered', why, ...placesOf(found) };
}

function placesOf({ ranges }: DigestFault): Pick<FileFault, 'ranges'> {
  return ranges === null ? {} : { ranges };
}

async function faultOf(
  path: string,
  entry: PointDisk,
  options: DigestOptions,
): Promise<DigestFault | FileFault | undefined> {
  try {
    return await findDigestFault(path, entry, options);
  } catch (error) {
    options.signal?.throwIfAborted();
    return unreadable(path, error);
  }
}

/** Reads the whole file. Undefined where its bytes are those that were sealed, or where no digest tells. */
export async function whyDamaged(
  path: string,
  entry: PointDisk,
  options: DigestOptions,
): Promise<FileFault | undefined> {
  const found = await faultOf(path, entry, options);
  return found === undefined || isFault(found) ? found : damagedAt(found);
}

const MOST_PLACES = 5;

/** Bytes that are others than were sealed, with their places. */
export function damagedAt(fault: DigestFault): FileFault {
  const { ranges } = fault;
  const places = (ranges ?? []).slice(0, MOST_PLACES).map(({ start, end }) => `from byte ${start} to ${end - 1}`);
  const more = (ranges?.length ?? 0) - places.length;
  const where = places.length === 0 ? '' : `: ${places.join(', ')}${more > 0 ? `, and ${more} more places` : ''}`;
  return { code: 'damaged', why: `its bytes are no longer those that were backed up${where}`, ...placesOf(fault) };
}

function unreadable(path: string, error: unknown): FileFault {
  return { code: 'unreadable', why: fileError('read', path, error).message };
}

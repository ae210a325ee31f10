import type { ByteRange } from './pieces.js';
import type { PointDisk } from './point.js';

/** What is wrong with a file of a target. */
export interface FileFault {
  readonly code: FileFaultCode;
  /** Continues a sentence that begins with the file: "it is missing". */
  readonly why: string;
  /** The bytes of it that are others than were sealed, where they are known. */
  readonly ranges?: readonly ByteRange[] | undefined;
}

export type FileFaultCode =
  /** The disk's folder is gone or a symbolic link. */
  | 'no-folder'
  | 'missing'
  /** A symbolic link, a folder, a device … */
  | 'not-a-file'
  /** It cannot be looked at or read. */
  | 'unreadable'
  | 'other-size'
  /** No qcow2 header that can be read. */
  | 'no-image'
  /** Its header names another file than the catalog says. */
  | 'other-link'
  /** Its header tells another disk size. */
  | 'other-disk-size'
  /** Modified after it was sealed: its time differs, and then its digest, or none was recorded. */
  | 'altered'
  /** Its bytes are others although nothing else tells so: only a digest finds that. */
  | 'damaged'
  /** What qcow2 keeps of its clusters contradicts itself: `qemu-img check` tells. */
  | 'corrupt';

/** A file that is there with the recorded size. */
export interface SeenFile {
  readonly mtimeMs: number;
  /** Its time is another than recorded, as in a copied folder: only its digest tells whether it is what was sealed. */
  readonly touched: boolean;
}

/** The one rule of whether a file is what the catalog says, as far as a look at it tells: its size, then its time. */
export function compareWithRecord(
  found: { readonly size: number; readonly mtimeMs: number },
  recorded: Pick<PointDisk, 'size'> & Partial<Pick<PointDisk, 'mtimeMs'>>,
): FileFault | SeenFile {
  const { size, mtimeMs } = found;
  if (size !== recorded.size) {
    return { code: 'other-size', why: `it has ${size} bytes, the catalog says ${recorded.size}` };
  }
  return { mtimeMs, touched: recorded.mtimeMs !== undefined && mtimeMs !== recorded.mtimeMs };
}

export function isFault(found: object): found is FileFault {
  return 'why' in found;
}

export const MISSING: FileFault = { code: 'missing', why: 'it is missing' };
export const NO_FOLDER: FileFault = { code: 'no-folder', why: 'its folder is missing or a symbolic link' };

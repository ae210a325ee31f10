import { type ErrorCode, QmpBackupError } from '../errors.js';
import type { ChainFault } from './chain.js';
import type { FileFaultCode } from './file-record.js';
import type { Finding } from './finding.js';

/** What is found wrong with a point or its files. Checks return it; whether that is refused is decided by `refuseFindings`. */
export interface PointFinding extends Finding {
  readonly code: PointFindingCode;
  /** The file that is meant, in the folder of the disk that is `subject`; null where none is. */
  readonly file: string | null;
  /** Why, without the name of the file or disk; continues a sentence that begins with it. */
  readonly why: string;
}

export type PointFindingCode =
  | FileFaultCode
  | ChainFault['code']
  /** Level `warning`: its content may be wrong although the file is whole. See `suspect` in the catalog. */
  | 'suspect'
  /** Level `info`: what a dead run left in the target is in no point. */
  | 'unsealed-run'
  /** Level `warning`: there is a journal and it cannot be understood. */
  | 'unreadable-journal';

/** Of a file that a disk's chain needs. */
export function fileFinding(
  disk: string,
  file: string,
  { code, why }: { readonly code: FileFaultCode; readonly why: string },
): PointFinding {
  if (isDamage(code)) {
    const todo = 'Check the storage. Put the file back from another copy, or use a point that does not need it.';
    return { level: 'error', subject: disk, code, file, why, what: `${file} is damaged: ${why}`, todo };
  }
  const todo =
    code === 'unreadable'
      ? 'Give this user the right to read it, or check the storage below it (kernel log).'
      : 'Put back the file as it was backed up, or use a point that does not need it.';
  return { level: 'error', subject: disk, code, file, why, what: `${file} cannot be used: ${why}`, todo };
}

/** Whether it is about a file as it is on disk, rather than about what the catalog says. */
export function isFileFinding({ code }: PointFinding): boolean {
  return IS_OF_FILE[code];
}

const IS_OF_FILE: Readonly<Record<PointFindingCode, boolean>> = {
  'no-folder': true,
  missing: true,
  'not-a-file': true,
  unreadable: true,
  'other-size': true,
  'no-image': true,
  'other-link': true,
  'other-disk-size': true,
  altered: true,
  damaged: true,
  corrupt: true,
  merged: false,
  merging: false,
  'half-merged': false,
  gap: false,
  suspect: false,
  'unsealed-run': false,
  'unreadable-journal': false,
};

/**
 * The one place where findings become a refusal: the first of level `error` is thrown, with its words. `hint` takes the
 * place of what it says is to be done, unless that is a matter of rights.
 *
 * @throws QmpBackupError `damaged` where the bytes of a file are others than those that were backed up, else `unsafe`
 */
export function refuseFindings(findings: readonly PointFinding[], { hint }: { readonly hint?: string } = {}): void {
  const first = findings.find(({ level }) => level === 'error');
  if (!first) return;
  const told = first.code === 'unreadable' ? first.todo : (hint ?? first.todo);
  throw new QmpBackupError(refusedAs(first), first.what, told === null ? {} : { hint: told });
}

/** Whether bytes of a file are others than those that were backed up. */
export function isDamageFinding({ code }: PointFinding): boolean {
  return isDamage(code);
}

function isDamage(code: PointFindingCode): boolean {
  return code === 'damaged' || code === 'corrupt';
}

function refusedAs({ code }: PointFinding): ErrorCode {
  return isDamage(code) ? 'damaged' : 'unsafe';
}

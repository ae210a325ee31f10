import { join } from 'node:path';
import type { PointDisk } from '../core/point.js';
import { QmpBackupError } from '../errors.js';
import { examine } from '../qemu-tools/examine.js';
import type { sha256File } from './digest.js';
import type { DiskFolder } from './disk-folder.js';
import type { checkBackingChain } from './file-state.js';

/** The files that a state needs, FULL first, proven to be what was backed up before qemu-img reads them. */
export interface ChainFile {
  readonly file: string;
  readonly parent: string | null;
  /** Bytes. */
  readonly virtualSize: number;
  /** Of its bytes, in hexadecimal; null or absent where none was recorded. */
  readonly sha256?: string | null;
  /** Its data may take more bytes than the file does. */
  readonly compressed?: boolean;
}

/**
 * Compares the files of a line with the catalog, then looks at their headers.
 *
 * @throws QmpBackupError `unsafe`, by name
 */
export async function refuseAlteredChain(
  { dir, target }: Pick<DiskFolder, 'dir' | 'target'>,
  line: readonly PointDisk[],
  signal: AbortSignal,
  deps: { readonly checkLine: typeof checkBackingChain },
): Promise<void> {
  const checked = await deps.checkLine(target, line, { signal });
  if (!checked.ok) {
    throw new QmpBackupError('unsafe', `${checked.file} cannot be used: ${checked.why}`, {
      hint: 'Put back the file as it was backed up, or use a point that does not need it.',
    });
  }
  await examineLine(dir, line);
}

/**
 * Reads every file of a line in `dir` to its end: bits that storage has lost show in neither size nor time.
 *
 * @throws QmpBackupError `damaged`, by name
 */
export async function refuseDamage(
  dir: string,
  line: readonly Pick<ChainFile, 'file' | 'sha256'>[],
  options: {
    readonly signal: AbortSignal;
    /** Bytes per second; undefined or 0 is no limit. */
    readonly rateLimit?: number | undefined;
    readonly onFile?: (file: string) => void;
  },
  deps: { readonly sha256File: typeof sha256File },
): Promise<void> {
  const { signal, rateLimit, onFile } = options;
  for (const { file, sha256 = null } of line) {
    if (sha256 === null) continue;
    onFile?.(file);
    if ((await deps.sha256File(join(dir, file), { signal, rateLimit })) === sha256) continue;
    throw new QmpBackupError('damaged', `${file} is damaged: its bytes are no longer those that were backed up`, {
      hint: 'Check the storage. Put the file back from another copy, or use a point that does not need it.',
    });
  }
}

/**
 * Looks at every header of a line before qemu-img opens it.
 *
 * @throws QmpBackupError as `examine`, and `unsafe` for another disk size than recorded
 */
async function examineLine(dir: string, line: readonly ChainFile[]): Promise<void> {
  for (const { file, parent, virtualSize } of line) {
    const header = await examine(dir, { file, links: [parent] });
    if (header.virtualSize === virtualSize) continue;
    throw new QmpBackupError(
      'unsafe',
      `${file} is a disk of ${header.virtualSize} bytes, the catalog says ${virtualSize}`,
      { hint: 'The file is not the one that was backed up. Put that one back.' },
    );
  }
}

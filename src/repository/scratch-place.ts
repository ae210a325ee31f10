import { dirname, isAbsolute, join, resolve } from 'node:path';
import type { SourceDisk } from '../core/disk.js';
import { scratchFolderName } from '../core/names.js';

/** For disks that are no files in a place for large temporary files, and for sockets, whose paths must be short. */
export const TEMPORARY = '/var/tmp';

/** The folder of one attempt there. */
export function temporaryFolder(attempt: string): string {
  return join(TEMPORARY, scratchFolderName(attempt));
}

/** Where a disk's scratch image lies: beside its image, where QEMU may write, or where `--fleece-dir` says. */
export function scratchPlace(fleeceDir: string | null, { file }: Pick<SourceDisk, 'file'>): string {
  if (fleeceDir !== null) return resolve(fleeceDir);
  const beside = isAbsolute(file) ? dirname(file) : TEMPORARY;
  return beside === '/dev' || beside.startsWith('/dev/') ? TEMPORARY : beside;
}

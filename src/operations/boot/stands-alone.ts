import { QmpBackupError } from '../../errors.js';
import { readHeader } from '../../qemu-tools/examine.js';
import type { BootRecord } from './boot-record.js';

/** Whether the overlay of every disk names no image below it. */
export async function standsAlone({ disks }: Pick<BootRecord, 'disks'>): Promise<boolean> {
  for (const { image } of disks) if (await leansByHeader(image)) return false;
  return true;
}

/** What cannot be read leans on who knows what: whoever needs it hears of that. */
export async function leansByHeader(image: string): Promise<boolean> {
  try {
    return (await readHeader(image, image)).backingFile !== null;
  } catch (error) {
    if (error instanceof QmpBackupError) return true;
    throw error;
  }
}

import { constants } from 'node:fs';
import { open, statfs } from 'node:fs/promises';
import { typeOf } from './free-space.js';

/** Behind others a server may refuse such writes, compression may be left out (btrfs), or nothing be gained. */
const MEASURED: ReadonlySet<number> = new Set([
  0xef53, // ext4
  0x58465342, // xfs
]);

/**
 * Whether the file of that path, which must be there, is best written past the page cache. What is written so is on its
 * way to storage at once, instead of when it is flushed at the end.
 */
export async function takesDirectIo(path: string): Promise<boolean> {
  try {
    if (!MEASURED.has(typeOf(await statfs(path, { bigint: true })))) return false;
    await (await open(path, constants.O_RDWR | constants.O_DIRECT | constants.O_NOFOLLOW)).close();
    return true;
  } catch {
    // Whatever is wrong with the file, its writer says.
    return false;
  }
}

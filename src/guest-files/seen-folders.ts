import type { LocatedFile } from './reader.js';

/**
 * Whether a folder is looked into for the first time. In a file system that is damaged, or was made to do harm, one may be in
 * several places, or in itself, and there are more paths to it than anybody can read.
 */
export function seenFolders(): (folder: LocatedFile) => boolean {
  const seen = new Set<string>();
  return ({ device, inode }) => {
    if (inode === '') return true;
    const key = `${device} ${inode.split('-')[0]}`;
    if (seen.has(key)) return false;
    seen.add(key);
    return true;
  };
}

export const SEEN_BEFORE = 'that folder is in another place, too: the file system is damaged';

/** What a partition holds, by its first bytes. */
export type FileSystemType = 'ext' | 'ntfs' | 'vfat' | 'xfs' | 'btrfs' | 'lvm' | 'luks' | 'swap' | 'unknown';

export interface FoundFileSystem {
  readonly type: FileSystemType;
  /** An ext file system whose newest changes are in its journal alone, as of a guest that runs and was not frozen. */
  readonly journal: boolean;
}

/** So many bytes of its beginning are looked at. */
export const FILE_SYSTEM_START = 0x10050;

const EXT_NEEDS_RECOVERY = 0x4;

export function fileSystemOf(start: Uint8Array): FoundFileSystem {
  const has = (at: number, text: string): boolean =>
    [...text].every((letter, index) => start[at + index] === letter.charCodeAt(0));
  const is = (type: FileSystemType, journal = false): FoundFileSystem => ({ type, journal });
  if (start[0x438] === 0x53 && start[0x439] === 0xef)
    return is('ext', ((start[0x460] ?? 0) & EXT_NEEDS_RECOVERY) !== 0);
  if (has(3, 'NTFS    ')) return is('ntfs');
  if (has(0, 'XFSB')) return is('xfs');
  if (has(0x10040, '_BHRfS_M')) return is('btrfs');
  if ([0, 1, 2, 3].some((sector) => has(512 * sector, 'LABELONE'))) return is('lvm');
  if (has(0, 'LUKS\xba\xbe')) return is('luks');
  if (has(0xff6, 'SWAPSPACE2')) return is('swap');
  if (has(510, '\x55\xaa') && (has(54, 'FAT1') || has(82, 'FAT32'))) return is('vfat');
  return is('unknown');
}

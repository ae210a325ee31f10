import { printable } from '../../core/printable.js';
import { warning } from '../../core/warning.js';
import { QmpBackupError } from '../../errors.js';
import type { GuestReader, LocatedFile, Volume } from '../../guest-files/reader.js';
import type { FilesContext } from './begin.js';
import { type FoundVolume, isForSleuthkit, type OpenFiles } from './open-files.js';
import type { FilesOptions } from './options.js';

/** A path of the guest's, where it was found. */
export interface FoundPath {
  readonly reader: GuestReader;
  readonly volume: Volume;
  readonly file: LocatedFile;
}

type Asked = Pick<FilesOptions, 'reader' | 'partition'>;

/**
 * The volumes that a path may be on, with the reader of each. `auto` looks with sleuthkit first, and asks libguestfs where the
 * path is on none of its volumes and others are left, or a logical volume was named.
 */
export async function findPath(
  files: OpenFiles,
  path: string,
  asked: Asked,
  notLookedAt: (volumes: readonly FoundVolume[]) => void,
): Promise<FoundPath> {
  const found: FoundPath[] = [];
  for await (const reader of readersFor(files, asked)) {
    for (const volume of await volumesOf(reader, asked)) {
      const file = await reader.find(volume, path);
      if (file) found.push({ reader, volume, file });
    }
    if (found.length > 0) {
      notLookedAt(othersThan(reader, files, asked));
      break;
    }
  }
  const [first, second] = found;
  if (first && second) {
    const places = found.map(({ volume }) => nameOfVolume(volume)).join(', ');
    throw new QmpBackupError('usage', `${printable(path)} is on several file systems: ${places}`, {
      hint: 'Say which: --disk ID --partition N, or --partition /dev/vg/lv',
    });
  }
  if (first) return first;
  throw new QmpBackupError('failed', `there is no ${printable(path)} in any file system that was looked at`, {
    hint: 'See which there are: qmpbackup files ls --target DIR; links are not followed.',
  });
}

/** What a reader has not looked at, and may hold the path, too. */
function othersThan({ name }: GuestReader, files: OpenFiles, { partition }: Asked): readonly FoundVolume[] {
  if (partition !== null) return [];
  return files.found.filter((each) => {
    if (each.type === 'luks') return true;
    return name === 'sleuthkit' && !isForSleuthkit(each) && !isNothing(each);
  });
}

/** Warns of each once, whatever is looked for. */
export function lookingAround({ report }: Pick<FilesContext, 'report'>): (volumes: readonly FoundVolume[]) => void {
  const told = new Set<string>();
  return (volumes) => {
    for (const { type, ...volume } of volumes) {
      const name = nameOfVolume({ type, ...volume });
      if (told.has(name)) continue;
      told.add(name);
      const why = type === 'luks' ? 'it is encrypted' : `only libguestfs reads ${type} (--reader guestfs)`;
      report({ kind: 'warning', ...warning('not-looked-at', `${name} was not looked at: ${why}`) });
    }
  };
}

export function nameOfVolume({ disk, name }: Volume): string {
  return disk === null ? name : `${disk}, ${name === 'whole' ? 'the whole disk' : `partition ${name}`}`;
}

/** One after the other, as long as the caller has not found what it looks for. */
export async function* readersFor(files: OpenFiles, { reader, partition }: Asked): AsyncGenerator<GuestReader> {
  const meant = files.found.filter(({ name }) => partition === null || name === partition);
  const plain = meant.filter(isForSleuthkit);
  const others = meant.filter((each) => !isForSleuthkit(each) && !isNothing(each));
  const isLogical = partition?.startsWith('/dev/') ?? false;
  if (reader === 'sleuthkit' && plain.length === 0) throw notForSleuthkit(others);
  if (reader !== 'guestfs' && plain.length > 0) yield await files.sleuthkit(plain);
  if (reader === 'guestfs' || (reader === 'auto' && (others.length > 0 || isLogical))) yield await files.guestfs();
}

export async function volumesOf(reader: GuestReader, { partition }: Asked): Promise<readonly Volume[]> {
  return (await reader.volumes()).filter(({ name }) => partition === null || name === partition);
}

function isNothing({ type }: FoundVolume): boolean {
  return type === 'swap' || type === 'unknown' || type === 'luks';
}

function notForSleuthkit(others: readonly FoundVolume[]): QmpBackupError {
  const there = others.map((each) => `${nameOfVolume(each)}: ${each.type}`).join('; ') || 'no file system';
  return new QmpBackupError('failed', `sleuthkit reads ext2 to 4, NTFS and FAT, and there is: ${there}`, {
    hint: 'Use the other reader: --reader guestfs',
  });
}

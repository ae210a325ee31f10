import { messageOf, QmpBackupError } from '../errors.js';
import { type ProgramEnd, runProgram } from '../host/program.js';
import { streamProgram } from '../host/stream-program.js';
import { parseBodyLine } from './body-file.js';
import { childOf, componentsOf, type GuestReader, type LocatedFile, ROOT, type Volume } from './reader.js';

/** A volume that sleuthkit can read, and where. */
export interface PlainVolume extends Volume {
  /** A raw file. */
  readonly image: string;
  /** Where in it the file system begins, in bytes. */
  readonly offset: number;
}

/**
 * ext2 to 4, NTFS and FAT on a partition, answered at once: each question is a run of `fls` or `icat`. Whatever these
 * complain of is a failure, for they go on behind what they cannot read.
 */
export function sleuthkitReader(plain: readonly PlainVolume[], signal: AbortSignal): GuestReader {
  const placeOf = (volume: Volume): PlainVolume => {
    const found = plain.find(({ disk, name }) => disk === volume.disk && name === volume.name);
    if (!found) throw new Error(`${volume.name} is not for sleuthkit`);
    return found;
  };
  const list = async (volume: Volume, folder: LocatedFile): Promise<readonly LocatedFile[]> => {
    const place = placeOf(volume);
    const inode = folder.inode === '' ? [] : [folder.inode];
    const { stdout } = await ask('fls', ['-u', '-m', '', ...imageOf(place), ...inode], folder.path, signal);
    const lines = stdout.split('\n').filter((line) => line !== '');
    const files = lines.flatMap((line) => parseBodyLine(line, place.type === 'ntfs') ?? []);
    const named: LocatedFile[] = [];
    for (const file of files) {
      if (file.name === '.' || file.name === '..') continue;
      const located = { ...file, path: childOf(folder, file.name) };
      const name = file.kind === 'link' ? withoutTarget(file.name, await linkTarget(volume, located)) : file.name;
      named.push({ ...located, name, path: childOf(folder, name) });
    }
    return named;
  };
  const linkTarget = async (volume: Volume, { inode, path }: LocatedFile): Promise<string> => {
    const image = imageOf(placeOf(volume));
    const { stdout } = await ask('icat', [...image, inode], path, signal);
    if (!/^\0+$/.test(stdout)) return stdout;
    // A short one is in the inode.
    const told = /^symbolic link to: (.*)$/m.exec((await ask('istat', [...image, inode], path, signal)).stdout);
    if (!told) throw unreadable(path, 'its target is not to be found');
    return told[1] ?? '';
  };
  return {
    ...{ name: 'sleuthkit', volumes: () => Promise.resolve(plain), list, linkTarget },
    find: async (volume, path) => {
      let at: LocatedFile = ROOT;
      for (const name of componentsOf(path)) {
        if (at.kind !== 'folder') return null;
        const names = await list(volume, at);
        const ignoresCase = volume.type !== 'ext';
        const next =
          names.find((each) => each.name === name) ??
          names.find((each) => ignoresCase && each.name.toLowerCase() === name.toLowerCase());
        if (!next) return null;
        at = next;
      }
      return at;
    },
    read: async (volume, { inode, path, size }, take) => {
      let bytes = 0;
      const end = await streamProgram('icat', [...imageOf(placeOf(volume)), inode], signal, async (chunk) => {
        bytes += chunk.length;
        await take(chunk);
      });
      refuse('icat', end, path, signal);
      if (bytes !== size) throw unreadable(path, `it has ${size} bytes, and ${bytes} could be read`);
    },
  };
}

function imageOf({ image, offset, type }: PlainVolume): readonly string[] {
  return ['-f', type === 'vfat' ? 'fat' : type, '-i', 'raw', '-o', String(offset / SECTOR), image];
}

const SECTOR = 512;
const TIMEOUT_MS = 600_000;

/** For a short link `fls` writes `name -> target`. */
function withoutTarget(name: string, target: string): string {
  // eslint-disable-next-line no-control-regex
  const shown = ` -> ${target.replace(/[\x00-\x1f\x7f]/g, '^')}`;
  return name.endsWith(shown) ? name.slice(0, -shown.length) : name;
}

async function ask(name: string, args: readonly string[], path: string, signal: AbortSignal): Promise<ProgramEnd> {
  const end = await runProgram(name, args, { timeoutMs: TIMEOUT_MS, signal });
  refuse(name, end, path, signal);
  return end;
}

function refuse(name: string, { failure, exitCode, stderr }: ProgramEnd, path: string, signal: AbortSignal): void {
  signal.throwIfAborted();
  if (failure?.code === 'ENOENT') throw noSleuthkit();
  const words = failure ? messageOf(failure) : stderr.trim();
  if (exitCode !== 0 || words !== '') throw unreadable(path, `${name}: ${words || `exit code ${exitCode}`}`);
}

function unreadable(path: string, why: string): QmpBackupError {
  return new QmpBackupError('failed', `${path} cannot be read: ${why}`, {
    hint: 'The file system may be damaged, or of a kind that sleuthkit does not know. Try the other reader: --reader guestfs',
  });
}

export function noSleuthkit(): QmpBackupError {
  return new QmpBackupError('failed', 'sleuthkit is not here: there is no program fls', {
    hint: 'Install it: apt install sleuthkit. Or use the other reader: --reader guestfs',
  });
}

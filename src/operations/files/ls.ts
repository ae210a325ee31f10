import { contextOf } from '../../backends/verb-context.js';
import { unwinding } from '../../flow/unwind.js';
import type { LocatedFile, Volume } from '../../guest-files/reader.js';
import { type FilesContext, openPointForFiles, proved } from './begin.js';
import { findPath, lookingAround } from './find-path.js';
import { isForSleuthkit } from './open-files.js';
import { filesLsOptions, type FilesLsRequest } from './options.js';

export interface ListedVolume extends Volume {
  /** Null where nobody can read it. */
  readonly reader: 'sleuthkit' | 'guestfs' | null;
}

export interface FilesLsResult {
  readonly target: string;
  /** The point in words. */
  readonly point: string;
  /** Without a path: what there is. */
  readonly volumes: readonly ListedVolume[];
  /** With a path: where it is, and what is there; a folder's content, else the file itself. */
  readonly volume: Volume | null;
  readonly files: readonly LocatedFile[];
}

/** @throws QmpBackupError as `serve`; `failed` where the path is not to be found, or a file system cannot be read */
export function filesLs(request: FilesLsRequest, given: Partial<FilesContext> = {}): Promise<FilesLsResult> {
  return unwinding(async (unwind) => {
    const [options, context] = [filesLsOptions(request), contextOf(given)];
    const { point, files } = await openPointForFiles(options, context, unwind);
    const answer = { target: point.target, point: point.name };
    return proved(files, context, async () => {
      const { path } = options;
      if (path === null) return { ...answer, volumes: await volumes(), volume: null, files: [] };
      const { reader, volume, file } = await findPath(files, path, options, lookingAround(context));
      const listed = file.kind === 'folder' ? await reader.list(volume, file) : [file];
      return { ...answer, volumes: [], volume, files: listed.toSorted((a, b) => (a.name < b.name ? -1 : 1)) };
    });

    async function volumes(): Promise<readonly ListedVolume[]> {
      const known = files.found
        .filter(({ name }) => options.partition === null || name === options.partition)
        .map((each): ListedVolume => ({ ...each, reader: readerOf(each.type, isForSleuthkit(each)) }));
      if (options.reader !== 'guestfs') return known;
      const logical = (await (await files.guestfs()).volumes()).filter(({ disk }) => disk === null);
      return [...known, ...logical.map((each): ListedVolume => ({ ...each, reader: 'guestfs' }))];
    }
  });
}

function readerOf(type: string, isPlain: boolean): ListedVolume['reader'] {
  if (isPlain) return 'sleuthkit';
  return type === 'xfs' || type === 'btrfs' || type === 'lvm' ? 'guestfs' : null;
}

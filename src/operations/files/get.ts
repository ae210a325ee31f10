import { resolve } from 'node:path';
import { contextOf } from '../../backends/verb-context.js';
import { printable } from '../../core/printable.js';
import { warning } from '../../core/warning.js';
import { QmpBackupError } from '../../errors.js';
import { Unwind, unwinding } from '../../flow/unwind.js';
import type { FileSink } from '../../guest-files/file-sink.js';
import { folderSink } from '../../guest-files/folder-sink.js';
import type { LocatedFile, Volume } from '../../guest-files/reader.js';
import { isSafeName } from '../../guest-files/safe-name.js';
import { SEEN_BEFORE, seenFolders } from '../../guest-files/seen-folders.js';
import { tarSink } from '../../guest-files/tar-sink.js';
import { makeFolder } from '../../repository/make-folder.js';
import { refuseBackupFolder } from '../../repository/nesting.js';
import { type FilesContext, openPointForFiles, proved } from './begin.js';
import { findPath, type FoundPath, lookingAround } from './find-path.js';
import { filesGetOptions, type FilesGetRequest } from './options.js';

/** A file with the volume that it is from. */
export interface GotFile extends LocatedFile {
  readonly volume: Volume;
}

export interface FilesGetResult {
  readonly target: string;
  /** The point in words. */
  readonly point: string;
  /** Absolute; null for an archive. */
  readonly output: string | null;
  /** What was written, by their paths in the guest. */
  readonly files: readonly GotFile[];
  /** What was not, being neither file, folder nor link, of a name that no file here can have, or in another place, too. */
  readonly leftOut: readonly string[];
}

export interface GetContext extends FilesContext {
  /** Takes the archive. */
  readonly archive: (bytes: Buffer) => Promise<void>;
}

/** @throws QmpBackupError as `filesLs`; `unsafe` where something is there already */
export function filesGet(request: FilesGetRequest, given: Partial<GetContext> = {}): Promise<FilesGetResult> {
  return unwinding(async (unwind) => {
    const [options, context] = [filesGetOptions(request), contextOf(given)];
    const { archive } = given;
    if (options.tar && !archive) throw new QmpBackupError('usage', 'nobody takes the archive');
    const output = options.tar ? null : resolve(options.output);
    if (output !== null) await refuseBackupFolder(output);
    const { point, files: open } = await openPointForFiles(options, context, unwind);
    const sink = output === null ? tarSink(archive ?? (() => Promise.resolve())) : folderSink(output);
    const [files, leftOut]: [GotFile[], string[]] = [[], []];
    await proved(open, context, async () => {
      const found: FoundPath[] = [];
      const looking = lookingAround(context);
      for (const path of options.paths) found.push(await findPath(open, path, options, looking));
      const top = await topOf(found);
      if (output !== null) await makeFolder(output, new Unwind());
      for (const each of top) await getAll(each, sink);
    });
    await sink.end();
    return { target: point.target, point: point.name, output, files, leftOut };

    /** What will be at the top of the output. */
    async function topOf(asked: readonly FoundPath[]): Promise<readonly (FoundPath & Shown)[]> {
      const top: (FoundPath & Shown)[] = [];
      for (const { reader, volume, file } of asked) {
        const isFirst = seenFolders();
        const children = file.path === '/' ? withoutTwins(await reader.list(volume, file)) : [file];
        const twice = children.find(({ name }) => top.some((each) => each.file.name === name));
        if (twice) throw twoAlike(twice.name);
        top.push(...children.map((child) => ({ reader, volume, file: child, isFirst })));
      }
      return top;
    }

    async function getAll({ reader, volume, file: first, isFirst }: FoundPath & Shown, into: FileSink): Promise<void> {
      await get(first, first.name);

      /** It gets its name when it was proved. */
      async function readProved(file: LocatedFile, take: (bytes: Buffer) => Promise<void>): Promise<void> {
        await reader.read(volume, file, take);
        await open.prove();
      }

      async function get(file: LocatedFile, path: string): Promise<void> {
        context.signal.throwIfAborted();
        const why = whyNot(file, isFirst);
        if (why !== null) {
          leaveOut(file, why);
          return;
        }
        if (file.kind === 'link') await into.link(path, file, await reader.linkTarget(volume, file));
        if (file.kind === 'file') await into.file(path, file, (take) => readProved(file, take));
        if (file.kind === 'folder') {
          await into.folder(path, file);
          for (const child of withoutTwins(await reader.list(volume, file))) await get(child, `${path}/${child.name}`);
        }
        files.push({ ...file, volume });
        context.report({ kind: 'got', path: file.path });
      }
    }

    /** Two names may be one here: a reader tells control characters as others, and a damaged folder has a name twice. */
    function withoutTwins(listed: readonly LocatedFile[]): readonly LocatedFile[] {
      const names = new Set<string>();
      return listed.filter((file) => {
        const isTwin = names.has(file.name);
        if (isTwin) leaveOut(file, 'another file in its folder has the same name here');
        names.add(file.name);
        return !isTwin;
      });
    }

    function leaveOut({ path }: LocatedFile, why: string): void {
      context.report({ kind: 'warning', ...warning('file-left-out', `${printable(path)} is left out: ${why}`) });
      leftOut.push(path);
    }
  });
}

interface Shown {
  readonly isFirst: (folder: LocatedFile) => boolean;
}

function whyNot(file: LocatedFile, isFirst: Shown['isFirst']): string | null {
  if (file.kind === 'other') return 'it is neither file, folder nor link';
  if (!isSafeName(file.name)) return 'no file here can have that name';
  return file.kind === 'folder' && !isFirst(file) ? SEEN_BEFORE : null;
}

function twoAlike(name: string): QmpBackupError {
  return new QmpBackupError('usage', `two of the paths would be written as ${printable(name)}`, {
    hint: 'Get them one after the other, each into a folder of its own.',
  });
}

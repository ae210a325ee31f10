import { resolve } from 'node:path';
import { contextOf } from '../../backends/verb-context.js';
import { printable } from '../../core/printable.js';
import { warning } from '../../core/warning.js';
import { QmpBackupError } from '../../errors.js';
import { Unwind, unwinding } from '../../flow/unwind.js';
import type { FileSink } from '../../guest-files/file-sink.js';
import { folderSink } from '../../guest-files/folder-sink.js';
import type { LocatedFile } from '../../guest-files/reader.js';
import { isSafeName } from '../../guest-files/safe-name.js';
import { tarSink } from '../../guest-files/tar-sink.js';
import { makeFolder } from '../../repository/make-folder.js';
import { refuseBackupFolder } from '../../repository/nesting.js';
import { type FilesContext, openPointForFiles } from './begin.js';
import { findPath, type FoundPath } from './find-path.js';
import { filesGetOptions, type FilesGetRequest } from './options.js';

export interface FilesGetResult {
  readonly target: string;
  /** The point in words. */
  readonly point: string;
  /** Absolute; null for an archive. */
  readonly output: string | null;
  /** What was written, by their paths in the guest. */
  readonly files: readonly LocatedFile[];
  /** What was not, being neither file, folder nor link, or of a name that no file here can have. */
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
    const found: FoundPath[] = [];
    for (const path of options.paths) found.push(await findPath(open, path, options));
    if (output !== null) await makeFolder(output, new Unwind());
    const sink = output === null ? tarSink(archive ?? (() => Promise.resolve())) : folderSink(output);
    const [files, leftOut]: [LocatedFile[], string[]] = [[], []];
    for (const each of found) await getAll(each, sink);
    await sink.end();
    return { target: point.target, point: point.name, output, files, leftOut };

    async function getAll({ reader, volume, file }: FoundPath, into: FileSink): Promise<void> {
      if (file.path === '/') {
        for (const child of await reader.list(volume, file)) await get(child, child.name);
      } else await get(file, file.name);

      async function get(each: LocatedFile, path: string): Promise<void> {
        context.signal.throwIfAborted();
        if (each.kind === 'other' || !isSafeName(each.name)) {
          leaveOut(each);
          return;
        }
        if (each.kind === 'link') await into.link(path, each, await reader.linkTarget(volume, each));
        if (each.kind === 'file') await into.file(path, each, (take) => reader.read(volume, each, take));
        if (each.kind === 'folder') {
          await into.folder(path, each);
          for (const child of await reader.list(volume, each)) await get(child, `${path}/${child.name}`);
        }
        files.push(each);
        context.report({ kind: 'got', path: each.path });
      }
    }

    function leaveOut({ path, kind }: LocatedFile): void {
      const why = kind === 'other' ? 'it is neither file, folder nor link' : 'no file here can have that name';
      context.report({ kind: 'warning', ...warning('file-left-out', `${printable(path)} is left out: ${why}`) });
      leftOut.push(path);
    }
  });
}

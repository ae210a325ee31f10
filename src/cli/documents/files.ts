import type { Warning } from '../../core/warning.js';
import type { FilesFindResult } from '../../operations/files/find.js';
import type { FilesGetResult } from '../../operations/files/get.js';
import type { FilesLsResult } from '../../operations/files/ls.js';
import { envelope } from './envelope.js';
import { warningPart } from './parts.js';
import type { FilesFindDocument, FilesGetDocument, FilesLsDocument } from './schemas/files.js';

export function filesLsDocument(listed: FilesLsResult, warnings: readonly Warning[]): FilesLsDocument {
  const { target, point, volumes, files } = listed;
  return {
    ...envelope('files-ls'),
    ...{ target, point },
    volumes: volumes.map(({ disk, name, type, size, reader }) => ({ disk, name, type, size, reader })),
    files: files.map(filePart),
    warnings: warnings.map(warningPart),
  };
}

export function filesGetDocument(got: FilesGetResult, warnings: readonly Warning[]): FilesGetDocument {
  const { target, point, output, files, leftOut } = got;
  return {
    ...envelope('files-get'),
    ...{ target, point, output: output ?? '', files: files.map(filePart), leftOut },
    warnings: warnings.map(warningPart),
  };
}

export function filesFindDocument(result: FilesFindResult, warnings: readonly Warning[]): FilesFindDocument {
  const { target, points, found } = result;
  return {
    ...envelope('files-find'),
    ...{ target, points },
    found: found.map(({ volume, path, states }) => ({
      ...{ volume, path },
      states: states.map(({ point, state, size, mtime }) => ({ point, state, size, mtime })),
    })),
    warnings: warnings.map(warningPart),
  };
}

type FilePart = FilesLsDocument['files'][number];

function filePart({ path, kind, size, mode, uid, gid, mtime }: FilePart): FilePart {
  return { path, kind, size, mode, uid, gid, mtime };
}

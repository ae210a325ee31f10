import type { Warning } from '../../core/warning.js';
import type { FilesFindResult } from '../../operations/files/find.js';
import type { FilesGetResult } from '../../operations/files/get.js';
import type { FilesLsResult } from '../../operations/files/ls.js';
import { envelope } from './envelope.js';
import { warningPart } from './parts.js';
import type { FilesFindDocument, FilesGetDocument, FilesLsDocument } from './schemas/files.js';

export function filesLsDocument(listed: FilesLsResult, warnings: readonly Warning[]): FilesLsDocument {
  const { target, point, volumes, volume, files } = listed;
  return {
    ...envelope('files-ls'),
    ...{ target, point },
    volumes: volumes.map((each) => ({ ...volumePart(each), reader: each.reader })),
    volume: volume && volumePart(volume),
    files: files.map((file) => filePart({ ...file, ...placePart(volume) })),
    warnings: warnings.map(warningPart),
  };
}

export function filesGetDocument(got: FilesGetResult, warnings: readonly Warning[]): FilesGetDocument {
  const { target, point, output, files, leftOut } = got;
  return {
    ...envelope('files-get'),
    ...{ target, point, output: output ?? '', leftOut },
    files: files.map((file) => filePart({ ...file, ...placePart(file.volume) })),
    warnings: warnings.map(warningPart),
  };
}

export function filesFindDocument(result: FilesFindResult, warnings: readonly Warning[]): FilesFindDocument {
  const { target, points, found, skipped, leftOut } = result;
  return {
    ...envelope('files-find'),
    ...{ target, points, leftOut },
    skipped: skipped.map(({ point, why, damaged }) => ({ point, why, damaged })),
    found: found.map(({ volume, disk, partition, path, states }) => ({
      ...{ volume, disk, partition, path },
      states: states.map(({ point, state, size, mtime }) => ({ point, state, size, mtime })),
    })),
    warnings: warnings.map(warningPart),
  };
}

type FilePart = FilesLsDocument['files'][number];

function filePart({ disk, partition, path, kind, size, mode, uid, gid, mtime }: FilePart): FilePart {
  return { disk, partition, path, kind, size, mode, uid, gid, mtime };
}

function placePart(volume: FilesLsResult['volume']): Pick<FilePart, 'disk' | 'partition'> {
  return { disk: volume?.disk ?? null, partition: volume?.name ?? '' };
}

function volumePart({
  disk,
  name,
  type,
  size,
}: NonNullable<FilesLsResult['volume']>): NonNullable<FilesLsDocument['volume']> {
  return { disk, name, type, size };
}

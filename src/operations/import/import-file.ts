import type { DigestMethod } from '../../core/pieces.js';
import type { DiskSource, PointDisk } from '../../core/point.js';
import type { StreamFile, StreamLevel } from '../../import/import-plan.js';
import { createImage } from '../../host/empty-image.js';
import { sealFile } from '../../repository/seal-file.js';
import type { Staging } from '../../repository/staging.js';

/** One stream, or image, becomes one file of the target. */
export interface ImportFile {
  readonly disk: string;
  readonly level: StreamLevel;
  readonly from: StreamFile;
  readonly file: string;
  readonly parent: ImportFile | null;
  /** Bytes. */
  readonly virtualSize: number;
  /** Why zeroed areas may be missing from it unless it has records of zeros; or null. */
  readonly suspect: string | null;
}

/** What is different between kinds of backups that files are made of. */
export interface ImportKind {
  /** For the journal. */
  readonly name: string;
  /** Writes what the file is to hold into the image that is there, and empty. */
  readonly copy: (file: ImportFile, options: ImportFileOptions) => Promise<WrittenData>;
  readonly sourceOf: (file: ImportFile) => DiskSource;
}

export interface WrittenData {
  /** Bytes of data and zeros. */
  readonly bytes: number;
  readonly zeroRecords: number;
}

export interface ImportFileOptions {
  /** The folder of the streams. */
  readonly source: string;
  readonly target: string;
  readonly digests: DigestMethod | null;
  readonly signal: AbortSignal;
  readonly onProgress: (percent: number) => void;
}

/** @throws QmpBackupError `damaged` and `unsafe` with the stream's name; `failed` */
export async function importFile(
  staging: Staging,
  file: ImportFile,
  kind: ImportKind,
  options: ImportFileOptions,
): Promise<PointDisk> {
  const { from, disk, parent, virtualSize } = file;
  const begunAt = performance.now();
  await staging.makeDiskFolder(disk);
  const path = await staging.reserve(disk, file.file);
  await createImage(path, { size: virtualSize, backing: parent?.file });
  const written = await kind.copy(file, options);
  const sealed = await sealFile(staging, { disk, file: file.file, path, empty: null }, options);
  const suspect = written.zeroRecords > 0 ? null : file.suspect;
  return {
    disk,
    level: file.level,
    reason: `imported from ${from.name}`,
    state: 'whole',
    file: file.file,
    parent: parent?.file ?? null,
    bitmap: null,
    virtualSize,
    ...sealed,
    changed: written.bytes,
    durationMs: Math.round(performance.now() - begunAt),
    plaintextOfEncrypted: false,
    compressed: false,
    ...(suspect === null ? {} : { suspect }),
    source: kind.sourceOf(file),
  };
}

/** Those it builds on, FULL first. */
export function ancestorsOf({ parent }: ImportFile): readonly ImportFile[] {
  return parent ? [...ancestorsOf(parent), parent] : [];
}

import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import type { DigestMethod } from '../../core/pieces.js';
import type { PointDisk } from '../../core/point.js';
import { QmpBackupError } from '../../errors.js';
import type { StreamFile, StreamLevel } from '../../import/import-plan.js';
import { readRaw, readStream } from '../../import/stream-file.js';
import { inFile } from '../../import/stream-folder.js';
import { nodeOf } from '../../qemu-tools/image-view.js';
import { type DiskSink, openSink } from '../../qemu-tools/image-writer.js';
import { createImage } from '../../host/empty-image.js';
import { diskFolder } from '../../repository/layout.js';
import { sealFile } from '../../repository/seal-file.js';
import type { Staging } from '../../repository/staging.js';

/** One stream becomes one file of the target. */
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

export interface ImportStreamOptions {
  /** The folder of the streams. */
  readonly source: string;
  readonly target: string;
  readonly digests: DigestMethod | null;
  readonly signal: AbortSignal;
  readonly onProgress: (percent: number) => void;
}

/** @throws QmpBackupError `damaged` and `unsafe` with the stream's name; `failed` */
export async function importStream(
  staging: Staging,
  file: ImportFile,
  options: ImportStreamOptions,
): Promise<PointDisk> {
  const { from, disk, parent, virtualSize } = file;
  const begunAt = performance.now();
  await staging.makeDiskFolder(disk);
  const path = await staging.reserve(disk, file.file);
  await createImage(path, { size: virtualSize, backing: parent?.file });
  const written = await copyStream(file, options).catch((error: unknown) => {
    throw inFile(from.name, error);
  });
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
    source: {
      // By libvirt's name for it the disk is known again.
      device: disk,
      qdev: null,
      node: null,
      file: '',
      format: from.meta?.format ?? 'raw',
      image: null,
    },
  };
}

interface Written {
  /** Bytes of data and zeros. */
  readonly bytes: number;
  readonly zeroRecords: number;
}

async function copyStream(file: ImportFile, options: ImportStreamOptions): Promise<Written> {
  const { from, disk } = file;
  const cwd = diskFolder(options.target, disk);
  const line = [...ancestorsOf(file).map((each) => each.file), `${file.file}.partial`];
  const sink = await openSink({ ...nodeOf(line), 'detect-zeroes': 'on' }, { cwd, signal: options.signal });
  try {
    const written = await writeEvents(file, sink, options, join(options.source, from.name));
    await sink.finish();
    return written;
  } finally {
    await sink.close();
  }
}

async function writeEvents(
  { parent, from, virtualSize }: ImportFile,
  sink: DiskSink,
  { signal, onProgress }: ImportStreamOptions,
  path: string,
): Promise<Written> {
  let [bytes, zeroRecords, percent] = [0, 0, 0];
  const total = from.meta?.dataSize ?? virtualSize;
  for await (const event of from.meta ? readStream(path, signal) : readRaw(path, signal)) {
    switch (event.kind) {
      case 'data':
        await sink.write(event.offset, event.bytes);
        bytes += event.bytes.length;
        break;
      case 'zero':
        // Nothing is below a whole backup, and what nobody wrote is zeros.
        if (parent) await sink.zero(event.offset, event.length);
        break;
      case 'end':
        ({ zeroRecords } = event);
        break;
      case 'meta':
        if (!isDeepStrictEqual(event.meta, from.meta)) throw new QmpBackupError('unsafe', 'it was changed meanwhile');
        break;
    }
    const now = Math.floor((bytes / Math.max(1, total)) * 100);
    if (now !== percent) onProgress((percent = now));
  }
  return { bytes, zeroRecords };
}

/** Those it builds on, FULL first. */
function ancestorsOf({ parent }: ImportFile): readonly ImportFile[] {
  return parent ? [...ancestorsOf(parent), parent] : [];
}

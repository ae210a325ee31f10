import { createHash } from 'node:crypto';
import { resolve } from 'node:path';
import { TAR_END, tarHeader, tarPadding } from '../../archive/tar-headers.js';
import { contextOf, type VerbContext, type WarningEvent } from '../../backends/verb-context.js';
import { MANIFEST_NAME, manifestText, SEAL_NAME, sealText } from '../../core/export-manifest.js';
import { type ExportPart, exportPartOf, filesToExport } from '../../core/export-part.js';
import type { VmIdentity } from '../../core/identity.js';
import type { Point } from '../../core/point.js';
import { isFileFinding, type PointFinding, refuseFindings } from '../../core/point-findings.js';
import { QmpBackupError } from '../../errors.js';
import { type Unwind, unwinding } from '../../flow/unwind.js';
import { requireCatalog } from '../../repository/catalog-file.js';
import { lockForReading } from '../../repository/disk-folder.js';
import { lockTarget } from '../../repository/lock.js';
import { markOpenFiles } from '../../repository/open-for-long.js';
import { openEveryPoint } from '../../repository/open-point.js';
import { readProved } from '../../repository/file-proof.js';
import { openArchive } from './archive-file.js';
import { exportOptions, type ExportPointsRequest } from './options.js';

export type ExportEvent =
  | WarningEvent
  | { readonly kind: 'exporting'; readonly file: string }
  /** Bytes of images that were written, of all. */
  | { readonly kind: 'progress'; readonly done: number; readonly total: number };

export interface ExportContext extends VerbContext<ExportEvent> {
  /** Takes the archive where the output is `-`. */
  readonly archive: (bytes: Buffer) => Promise<void>;
}

export interface ExportResult {
  readonly target: string;
  readonly vm: VmIdentity;
  /** Absolute; null where `archive` took it. */
  readonly output: string | null;
  /** In the order in which they were sealed; may be none. */
  readonly points: readonly Point[];
  /** Bytes of the archive. */
  readonly size: number;
}

/**
 * Writes sealed points, with what the catalog says of them, as one tar archive. Every file is proved by its digest while it is read;
 * of an archive without its last member, the seal, nothing counts. Backups into the target go on meanwhile.
 *
 * @throws QmpBackupError `no-catalog`; `usage`; `locked`; `unsafe` and `damaged` for files that are not what was sealed;
 * `failed` where the archive cannot be written
 */
export function exportPoints(request: ExportPointsRequest, given: Partial<ExportContext> = {}): Promise<ExportResult> {
  return unwinding(async (unwind) => {
    const [options, context] = [exportOptions(request), contextOf(given)];
    const { signal } = context;
    signal.throwIfAborted();
    const target = resolve(options.target);
    const part = await openPart(target, options, context, unwind);
    const file = options.output === '-' ? null : await openArchive(resolve(options.output), unwind);
    const put = file?.write ?? given.archive;
    if (!put) throw new QmpBackupError('usage', 'nobody takes the archive');
    const size = await writeArchive(target, part, { put, context });
    await file?.keep();
    return { target, vm: part.catalog.vm, output: file?.path ?? null, points: part.catalog.points, size };
  });
}

type Context = VerbContext<ExportEvent>;

/** The lock is held for the look alone; a mark keeps the files from being merged or removed. */
async function openPart(
  target: string,
  { point, since, breakLock }: ReturnType<typeof exportOptions>,
  { signal, report }: Context,
  unwind: Unwind,
): Promise<ExportPart> {
  const warn = (said: Omit<WarningEvent, 'kind'>): void => report({ kind: 'warning', ...said });
  const lock = await lockForReading(lockTarget, target, { breakLock, purpose: 'export', lookUntil: signal }, warn);
  try {
    const catalog = await requireCatalog(target);
    const part = exportPartOf(catalog, { point, since });
    const files = filesToExport(part.catalog.points).map(({ folder, file }) => `${folder}/${file}`);
    refuseFindings(await findingsOf(target, part, new Set(files)));
    if (!lock) return part;
    await markOpenFiles(target, { what: 'export', files, warn }, unwind);
    AbortSignal.any([signal, lock.signal]).throwIfAborted();
    return part;
  } finally {
    await lock?.release();
  }
}

/**
 * Of the files of the part. What is wrong with those that its points build on beside it is no reason to withhold it: who takes it in may have them whole. What
 * moved on into later points is there.
 */
async function findingsOf(
  target: string,
  { catalog }: ExportPart,
  exported: ReadonlySet<string>,
): Promise<readonly PointFinding[]> {
  const whole = await requireCatalog(target);
  const chosen = new Set(catalog.points.map(({ id }) => id));
  const states = (await openEveryPoint(target, whole)).filter(({ point }) => chosen.has(point.id));
  return states
    .flatMap(({ findings }) => findings)
    .filter((each) => each.code !== 'merged' && !(isFileFinding(each) && isBeside(each, exported)));
}

function isBeside({ subject, file }: PointFinding, exported: ReadonlySet<string>): boolean {
  return file !== null && !exported.has(`${subject}/${file}`);
}

interface Writing {
  readonly put: (bytes: Buffer) => Promise<void>;
  readonly context: Context;
}

/** Resolves to the length of the archive. */
async function writeArchive(target: string, part: ExportPart, { put, context }: Writing): Promise<number> {
  const { signal, now, report } = context;
  const hash = createHash('sha256');
  let size = 0;
  const write = async (bytes: Buffer): Promise<void> => {
    signal.throwIfAborted();
    hash.update(bytes);
    size += bytes.length;
    await put(bytes);
  };
  const begin = (path: string, length: number, mtime: number): Promise<void> =>
    write(tarHeader({ path, mode: 0o600, uid: 0, gid: 0, size: length, mtime, type: '0' }));
  const small = async (path: string, bytes: Buffer): Promise<void> => {
    await begin(path, bytes.length, now().getTime() / 1000);
    await write(Buffer.concat([bytes, tarPadding(bytes.length)]));
  };

  await small(MANIFEST_NAME, Buffer.from(manifestText(part)));
  const files = filesToExport(part.catalog.points);
  const total = files.reduce((sum, each) => sum + each.size, 0);
  let done = 0;
  for (const file of files) {
    report({ kind: 'exporting', file: `${file.folder}/${file.file}` });
    await begin(`${file.folder}/${file.file}`, file.size, (file.image?.mtimeMs ?? now().getTime()) / 1000);
    for await (const chunk of readProved(target, file)) {
      await write(chunk);
      report({ kind: 'progress', done: (done += chunk.length), total });
    }
    await write(tarPadding(file.size));
  }
  await small(SEAL_NAME, Buffer.from(sealText(hash.copy().digest('hex'))));
  await write(TAR_END);
  return size;
}

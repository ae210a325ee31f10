import { createHash, randomBytes } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { open } from 'node:fs/promises';
import { resolve } from 'node:path';
import type { Readable } from 'node:stream';
import { type TarMember, TarReader } from '../../archive/tar-reader.js';
import { contextOf, type VerbContext } from '../../backends/verb-context.js';
import type { Catalog } from '../../core/catalog.js';
import { MANIFEST_NAME, readManifest, refuseWrongSeal, SEAL_NAME } from '../../core/export-manifest.js';
import {
  type ExportedFile,
  type ExportPart,
  filesToExport,
  missingPoints,
  withPoints,
} from '../../core/export-part.js';
import { isFault } from '../../core/file-record.js';
import { type Journal, JOURNAL_SCHEMA } from '../../core/journal.js';
import { linkOf, type Point, type PointDisk } from '../../core/point.js';
import type { Warning } from '../../core/warning.js';
import { QmpBackupError } from '../../errors.js';
import { unwinding } from '../../flow/unwind.js';
import { syncFile } from '../../host/durable.js';
import { fileError } from '../../host/file-errors.js';
import { isThere } from '../../host/is-there.js';
import { warnOfSpace } from '../../host/warn-of-space.js';
import { writeWithHoles } from '../../host/write-all.js';
import { checkHeader } from '../../repository/check-file.js';
import { digestOfExported, FileProof } from '../../repository/file-proof.js';
import { fileState } from '../../repository/file-state.js';
import { diskFolder } from '../../repository/layout.js';
import { refuseDiskFolder } from '../../repository/nesting.js';
import { keepPieceList } from '../../repository/piece-list.js';
import type { Staging } from '../../repository/staging.js';
import { readTarget } from '../../repository/target.js';
import type { ImportContext, ImportedPoint, ImportEvent, ImportResult } from './import-run.js';
import { intoTarget } from './into-target.js';
import type { ImportOptions } from './options.js';

/**
 * Takes the points of an export into a target: a new one, or one that has what they go on from. Points that it has already are passed
 * over, so that an import can be run again. The archive may come from anywhere: it is taken for hostile until its seal.
 *
 * @throws QmpBackupError `unsafe` for what is no export, and a target that is no copy of where it was made; `damaged` for an
 * archive that was cut or damaged on its way. Nothing of it is left then.
 */
export function importExport(options: ImportOptions, given: Partial<ImportContext>): Promise<ImportResult> {
  return unwinding(async (unwind) => {
    const context = contextOf(given);
    const { signal } = context;
    signal.throwIfAborted();
    const target = resolve(options.target);
    await refuseDiskFolder(target);
    const stream =
      options.source === '-' ? requireInput(given) : createReadStream(options.source, { highWaterMark: CHUNK });
    const end = (): void => void stream.destroy(signal.reason as Error);
    signal.addEventListener('abort', end, { once: true });
    unwind.defer(() => {
      signal.removeEventListener('abort', end);
      stream.destroy();
      return Promise.resolve();
    });
    const run: Run = { options, context, target, archive: new Archive(stream) };
    try {
      const part = await run.archive.manifest();
      return options.dryRun ? await dryRun(run, part) : await perform(run, part);
    } catch (error) {
      signal.throwIfAborted();
      throw fileError('read', options.source, error);
    }
  });
}

const CHUNK = 1024 * 1024;

function requireInput({ input }: Partial<ImportContext>): Readable {
  if (input) return input;
  throw new QmpBackupError('usage', 'nobody gives the archive');
}

interface Run {
  readonly options: ImportOptions;
  readonly context: VerbContext<ImportEvent>;
  readonly target: string;
  readonly archive: Archive;
}

async function dryRun(run: Run, part: ExportPart): Promise<ImportResult> {
  const { catalog } = await readTarget(run.target, false);
  return resultOf(run, part, missingPoints(part, catalog));
}

function perform(run: Run, part: ExportPart): Promise<ImportResult> {
  const { options, context, target, archive } = run;
  const { breakLock, source, tool } = options;
  const warn = (said: Warning): void => context.report({ kind: 'warning', ...said });
  const place = { target, breakLock, purpose: `import of ${source}`, signal: context.signal, warn };
  return intoTarget(place, async ({ state, signal, seal }) => {
    const held = state.catalog;
    const missing = missingPoints(part, held);
    const [first] = missing;
    const wanted = new Set(filesToExport(missing).map(keyOf));
    // What is there already is read to its end all the same: who writes the archive may wait for that.
    if (!first) {
      await archive.files(part, () => Promise.resolve(null));
      return resultOf(run, part, missing);
    }
    const need = filesToExport(missing).reduce((sum, { size }) => sum + size, 0);
    await warnOfSpace(target, { need, what: 'the import' }, { signal, warn });
    await seal(await journalOf(run, part, missing), async (staging) => {
      const entries = new Map<string, PointDisk>();
      await archive.files(part, async (file) => {
        signal.throwIfAborted();
        if (!wanted.has(keyOf(file))) return null;
        context.report({ kind: 'importing', point: pointOf(missing, file), of: missing.length, file: keyOf(file) });
        return takeInto(staging, file, (entry) => entries.set(keyOf(file), entry));
      });
      signal.throwIfAborted();
      return withPoints(held, part, {
        points: missing.map((each) => withEntries(each, entries)),
        targetId: newId(),
        tool,
      });
    });
    return resultOf(run, part, missing);
  });
}

function newId(): string {
  return randomBytes(8).toString('hex');
}

function keyOf({ folder, file }: Pick<ExportedFile, 'folder' | 'file'>): string {
  return `${folder}/${file}`;
}

/** Counted from 1. */
function pointOf(points: readonly Point[], file: ExportedFile): number {
  return points.findIndex((point) => filesToExport([point]).some((each) => keyOf(each) === keyOf(file))) + 1;
}

// --- the archive -----------------------------------------------------------------------------------------------------

/** Gets the bytes of one file, in order, and at its end what proves them. */
interface FileTaker {
  readonly write: (bytes: Buffer) => Promise<void>;
  readonly end: (proof: ReturnType<FileProof['end']>) => Promise<void>;
  readonly close: () => Promise<void>;
}

/** A catalog takes no more, nor does what is said of its order. Bytes. */
const MOST_MANIFEST = 512 * 1024 * 1024;
const MOST_SEAL = 4096;

class Archive {
  readonly #hash = createHash('sha256');
  readonly #reader: TarReader;

  constructor(stream: AsyncIterable<Buffer>) {
    this.#reader = new TarReader(stream, (bytes) => this.#hash.update(bytes));
  }

  async manifest(): Promise<ExportPart> {
    return readManifest(await this.#text(MANIFEST_NAME, MOST_MANIFEST));
  }

  /** All files in their order, then the seal. `take` says who gets a file; null passes it over. */
  async files(part: ExportPart, take: (file: ExportedFile) => Promise<FileTaker | null>): Promise<void> {
    for (const file of filesToExport(part.catalog.points)) {
      const member = await this.#next(keyOf(file));
      if (member.size !== file.size)
        throw unexpected(member, `it has ${member.size} bytes, the catalog says ${file.size}`);
      const taker = await take(file);
      try {
        const proof = new FileProof(digestOfExported(file));
        for await (const chunk of member.body()) {
          proof.update(chunk);
          await taker?.write(chunk);
        }
        const proved = proof.end();
        if (!proved.isRight) throw damaged(keyOf(file));
        await taker?.end(proved);
      } finally {
        await taker?.close();
      }
    }
    const sha256 = this.#hash.copy().digest('hex');
    refuseWrongSeal(await this.#text(SEAL_NAME, MOST_SEAL), sha256);
    const more = await this.#reader.next();
    if (more) throw unexpected(more, 'nothing follows a seal');
  }

  async #text(name: string, most: number): Promise<string> {
    const member = await this.#next(name);
    if (member.size > most) throw unexpected(member, `it has ${member.size} bytes, more than the ${most} it may have`);
    const parts: Buffer[] = [];
    for await (const part of member.body()) parts.push(Buffer.from(part));
    return Buffer.concat(parts).toString('utf8');
  }

  async #next(name: string): Promise<TarMember> {
    const member = await this.#reader.next();
    if (!member) throw damaged('its end comes too early, and the archive');
    if (member.path !== name) throw unexpected(member, `${name} is to be in its place`);
    return member;
  }
}

function unexpected({ path }: TarMember, why: string): QmpBackupError {
  return new QmpBackupError('unsafe', `the archive is none that export has written: ${JSON.stringify(path)}: ${why}`, {
    hint: 'Give what "qmpbackup export --output FILE" has written, as it is: not unpacked, packed anew or compressed.',
  });
}

function damaged(file: string): QmpBackupError {
  return new QmpBackupError('damaged', `${file} was damaged on its way`, {
    hint: 'Nothing of it was taken in. Run export and import again.',
  });
}

// --- the files -------------------------------------------------------------------------------------------------------

/** `entered` gets what the catalog is to say of the file as it is here. */
async function takeInto(
  staging: Staging,
  exported: ExportedFile,
  entered: (entry: PointDisk) => void,
): Promise<FileTaker> {
  const { folder, file, size, image } = exported;
  await staging.makeDiskFolder(folder);
  const path = await staging.reserve(folder, file);
  const handle = await open(path, 'r+');
  let at = 0;
  return {
    write: async (bytes) => {
      await writing(path, () => writeWithHoles(handle, bytes, at));
      at += bytes.length;
    },
    end: async ({ digest }) => {
      await writing(path, () => handle.truncate(size));
      if (image) await refuseOtherHeader(path, image);
      await syncFile(path);
      await staging.promote(folder, file);
      if (!image) return;
      const state = await fileState(staging.filePath(folder, file));
      if (!state) throw new QmpBackupError('failed', `${folder}/${file} was gone before it was sealed`);
      if (digest) await keepPieceList(staging, { disk: folder, file }, digest);
      entered({ ...image, allocated: state.allocated, mtimeMs: state.mtimeMs });
    },
    close: () => handle.close(),
  };
}

async function writing(path: string, write: () => Promise<void>): Promise<void> {
  try {
    await write();
  } catch (error) {
    throw fileError('write', path, error);
  }
}

/** The digest says only that it is what its writer meant: no image that names a file elsewhere gets its name here. */
async function refuseOtherHeader(path: string, { disk, file, virtualSize, ...links }: PointDisk): Promise<void> {
  const found = await checkHeader(path, { links: [linkOf(links)], virtualSize });
  if (!isFault(found)) return;
  throw new QmpBackupError('unsafe', `${disk}/${file} of the archive cannot be used: ${found.why}`, {
    hint: 'Look at that file where the export was made: qmpbackup verify --target DIR',
  });
}

function withEntries(point: Point, entries: ReadonlyMap<string, PointDisk>): Point {
  return { ...point, disks: point.disks.map((entry) => entries.get(`${entry.disk}/${entry.file}`) ?? entry) };
}

async function journalOf(
  { context, target }: Run,
  { catalog }: ExportPart,
  points: readonly Point[],
): Promise<Journal> {
  const files = filesToExport(points);
  const folders = [...new Set(files.map(({ folder }) => folder))];
  const there = await Promise.all(folders.map((folder) => isThere(diskFolder(target, folder))));
  return {
    schema: JOURNAL_SCHEMA,
    attempt: points[0]?.id ?? '',
    startedAt: context.now().toISOString(),
    what: 'import of an export',
    owner: { kind: 'none' },
    vm: catalog.vm,
    disks: files.map(({ folder, file }) => ({ disk: folder, bitmap: null, job: '', file })),
    madeFolders: folders.filter((_, index) => !there[index]),
    freezes: null,
    stops: false,
    scratch: [],
    servesNbd: false,
  };
}

function resultOf({ options, target }: Run, { catalog }: ExportPart, points: readonly Point[]): ImportResult {
  return {
    source: options.source === '-' ? '-' : resolve(options.source),
    target,
    vm: catalog.vm,
    chain: chainOf(points) ?? chainOf(catalog.points),
    points: points.map(({ level, number, createdAt, disks }): ImportedPoint => ({
      level,
      number,
      checkpoint: null,
      createdAt,
      disks: disks.map(({ disk, file, parent, virtualSize, suspect = null }) => ({
        ...{ disk, from: `${disk}/${file}`, file, parent, virtualSize, suspect },
      })),
    })),
    dryRun: options.dryRun,
  };
}

function chainOf(points: readonly Point[]): Catalog['points'][number]['chain'] {
  return points.findLast(({ chain }) => chain !== null)?.chain ?? null;
}

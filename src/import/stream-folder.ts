import { constants, type Dirent } from 'node:fs';
import { type FileHandle, open, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { type DomainName, domainName } from '../core/domain-name.js';
import { type Warning, warning } from '../core/warning.js';
import { QmpBackupError } from '../errors.js';
import { codeOf, fileError } from '../host/file-errors.js';
import { ByteFeed } from './byte-feed.js';
import { type LoggedRun, parseStreamName, type StreamFile, type StreamName } from './import-plan.js';
import { parseRecord, RECORD_BYTES, streamMeta } from './sparse-stream.js';
import type { StreamMeta } from './stream-meta.js';

/**
 * A folder that virtnbdbackup wrote, looked at without reading the data: the beginning and the end of each stream, the
 * names that VM configurations have, and what the logs say of the runs. Nothing in it is followed or believed.
 */
export interface StreamFolder {
  readonly files: readonly StreamFile[];
  readonly runs: readonly LoggedRun[];
  /** Undefined when no configuration in it tells. */
  readonly vm: DomainName | { readonly name: string; readonly uuid: null } | undefined;
  readonly warnings: readonly Warning[];
}

/** @throws QmpBackupError `unsafe` for a link, an unfinished stream and the like; `damaged`; `no-catalog` for no folder */
export async function readStreamFolder(folder: string): Promise<StreamFolder> {
  const entries = (await entriesOf(folder)).toSorted((a, b) => (a.name < b.name ? -1 : 1));
  const files: StreamFile[] = [];
  const warnings: Warning[] = [];
  for (const entry of entries) {
    const name = parseStreamName(entry.name);
    if (name) files.push(await look(folder, entry, name));
    else if (entry.name.endsWith('.data.partial')) throw unfinished(entry.name);
    else if (entry.name.endsWith('.data'))
      warnings.push(warning('file-ignored', `${entry.name} is not named as a stream is, it is left out`));
  }
  const plain = entries.filter((entry) => entry.isFile()).map(({ name }) => name);
  return { files, runs: await runsIn(folder, plain), vm: await vmOf(folder, plain, warnings), warnings };
}

/**
 * Opens a stream or anything else of the folder: a regular file, and no link.
 *
 * @throws QmpBackupError `unsafe` or `failed`
 */
export async function openPlain(path: string): Promise<FileHandle> {
  try {
    const handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    if ((await handle.stat()).isFile()) return handle;
    await handle.close();
  } catch (error) {
    if (codeOf(error) !== 'ELOOP') throw fileError('open', path, error);
  }
  throw new QmpBackupError('unsafe', `${path} is no regular file`, {
    hint: 'Links are not followed. Put the file itself in that place.',
  });
}

async function entriesOf(folder: string): Promise<readonly Dirent[]> {
  try {
    return await readdir(folder, { withFileTypes: true });
  } catch (error) {
    const { message } = fileError('read the folder', folder, error);
    throw new QmpBackupError('no-catalog', message, {
      cause: error,
      hint: 'Give the folder that virtnbdbackup wrote with -o.',
    });
  }
}

async function look(folder: string, { name: file }: Dirent, name: StreamName): Promise<StreamFile> {
  const handle = await openPlain(join(folder, file));
  try {
    const { size, mtime } = await handle.stat();
    const meta = await metaOf(handle);
    if (!meta) return { ...name, size, meta, date: localTime(mtime) };
    await refuseWithoutEnd(handle, size, meta);
    return { ...name, size, meta, date: meta.date };
  } catch (error) {
    throw inFile(file, error);
  } finally {
    await handle.close();
  }
}

/** The error, with the file that it is about. */
export function inFile(file: string, error: unknown): unknown {
  if (!(error instanceof QmpBackupError) || (error.code !== 'damaged' && error.code !== 'unsafe')) return error;
  return new QmpBackupError(error.code, `${file}: ${error.message}`, {
    cause: error,
    hint: error.hint ?? 'The file is incomplete or was altered. Nothing was imported.',
  });
}

const BEGINNING = 4096;

/** Null for what does not begin as a stream does: a raw image, or nothing that is known. */
async function metaOf(handle: FileHandle): Promise<StreamMeta | null> {
  const found: StreamMeta[] = [];
  const feed = new ByteFeed<StreamMeta>(
    (function* () {
      yield yield* streamMeta();
    })(),
  );
  for (let at = 0; !feed.done;) {
    const bytes = await readAt(handle, at, BEGINNING);
    if (at === 0 && bytes.subarray(0, 5).toString('latin1') !== 'meta ') return null;
    if (bytes.length === 0) throw new QmpBackupError('damaged', 'it ends within its metadata');
    found.push(...feed.push(bytes));
    at += bytes.length;
  }
  return found[0] ?? null;
}

/** A stream that its tool did not finish has another end, or none: told before hours are spent on the others. */
async function refuseWithoutEnd(handle: FileHandle, size: number, { compressed }: StreamMeta): Promise<void> {
  const line = await readAt(handle, Math.max(0, size - RECORD_BYTES), RECORD_BYTES);
  const expected = compressed ? 'comp' : 'stop';
  if (line.subarray(0, 5).toString('latin1') === `${expected} ` && parseRecord(line).kind === expected) return;
  throw new QmpBackupError('damaged', 'its end is missing: it was not finished, or was cut off');
}

async function readAt(handle: FileHandle, at: number, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length);
  const { bytesRead } = await handle.read(buffer, 0, length, at);
  return buffer.subarray(0, bytesRead);
}

function unfinished(name: string): QmpBackupError {
  return new QmpBackupError('unsafe', `${name} is a stream that was not finished`, {
    hint: 'If that backup is not running any more, move the file away: the import then holds what came before it.',
  });
}

/** As the metadata of a stream has it. */
function localTime(time: Date): string {
  return new Date(time.getTime() - time.getTimezoneOffset() * 60_000).toISOString().slice(0, -1);
}

// --- what else lies there ----------------------------------------------------------------------------------------------

/** What is wanted of a log is in its first lines. Bytes. */
const LOG_BEGINNING = 64 * 1024;

async function runsIn(folder: string, names: readonly string[]): Promise<readonly LoggedRun[]> {
  const logs = names.filter((name) => /^backup\.[a-z]+\.\d+\.log$/.test(name));
  const runs: LoggedRun[] = [];
  for (const log of logs) {
    const text = await beginningOf(join(folder, log), LOG_BEGINNING);
    const [, version, given] = / Version: (\d[\d.]{0,20}) Arguments: (.*)/.exec(text) ?? [];
    const checkpoint = /Using checkpoint name: \[([^\]]+)\]/.exec(text)?.[1];
    if (version === undefined || checkpoint === undefined) continue;
    runs.push({ checkpoint, version, keptZeros: / --no-sparse-detection\b/.test(given ?? '') });
  }
  return runs;
}

async function vmOf(folder: string, names: readonly string[], warnings: Warning[]): Promise<StreamFolder['vm']> {
  const found = new Map<string, DomainName>();
  for (const name of names.filter((each) => /^vmconfig\..*\.xml$/.test(each))) {
    const vm = domainName(await beginningOf(join(folder, name), BEGINNING));
    if (vm) found.set(`${vm.name} ${vm.uuid}`, vm);
  }
  const [vm] = found.values();
  if (found.size > 1) {
    warnings.push(
      warning(
        'vm-unknown',
        `the configurations are of different VMs (${[...found.keys()].join(', ')}): none is taken for the name`,
      ),
    );
    return undefined;
  }
  if (vm) return vm;
  const lists = names.filter((name) => /^.+\.cpt$/.test(name));
  return lists.length === 1 ? { name: (lists[0] ?? '').slice(0, -'.cpt'.length), uuid: null } : undefined;
}

async function beginningOf(path: string, bytes: number): Promise<string> {
  const handle = await openPlain(path);
  try {
    return (await readAt(handle, 0, bytes)).toString('utf8');
  } finally {
    await handle.close();
  }
}

import { createHash } from 'node:crypto';
import { lstat, open, rm } from 'node:fs/promises';
import { PARTIAL_SUFFIX } from '../../core/names.js';
import { messageOf, QmpBackupError } from '../../errors.js';
import type { Unwind } from '../../flow/unwind.js';
import { replaceFile } from '../../host/durable.js';
import { codeOf, fileError } from '../../host/file-errors.js';
import { isThere } from '../../host/is-there.js';
import { describeOwner, inspectProcess, judgeOwner, parseOwner, thisProcess } from '../../host/lock-owner.js';
import { readPlainFile } from '../../host/plain-file.js';
import type { ImageFormat } from '../../qemu-tools/steps.js';
import type { ChainSource } from './read-chain.js';

/**
 * An image that is being made: `<image>.partial`, and `<image>.partial.json`, which says who makes it, of what, and whether
 * it is complete. A run that is killed leaves both; the next one keeps what is complete, and makes the rest again.
 */
export interface ImageUnderWay {
  /** What a killed run of the same has left complete; `image`: already under its name. */
  readonly found: 'nothing' | 'partial' | 'image';
  /** It holds what it shall hold, and is flushed. */
  readonly complete: () => Promise<void>;
  /** The run is over: nobody has to know any more. */
  readonly forget: () => Promise<void>;
}

export interface ImageToMake {
  /** Absolute. */
  readonly path: string;
  readonly format: ImageFormat;
  /** What has that name is replaced. */
  readonly replaces: boolean;
}

export interface BeginOptions {
  /** What the run does, for people. */
  readonly what: string;
  readonly breakLock: boolean;
}

const LIMIT = 64 * 1024;

export function partialOf(path: string): string {
  return `${path}${PARTIAL_SUFFIX}`;
}

/**
 * Takes the place of an image: from now on it is this run's. `undo` gives it back, with what was made in it.
 *
 * @throws QmpBackupError `locked` where another run is at it; `unsafe` where something has the name
 */
export async function beginImage(
  image: ImageToMake,
  source: ChainSource,
  { what, breakLock }: BeginOptions,
  undo: Unwind,
): Promise<ImageUnderWay> {
  const { path, format, replaces } = image;
  const record = recordOf(path);
  const of = digestOf(source, format);
  const write = async (isComplete: boolean): Promise<void> => {
    await replaceFile(record, `${JSON.stringify({ ...thisProcess(what), of, complete: isComplete })}\n`, {
      mode: 0o600,
    });
  };
  const left = await leftAt(path, breakLock);
  const same = left?.complete === true && left.of === of;
  const isImage = await isThere(path);
  const found = !same
    ? 'nothing'
    : (await isThere(partialOf(path)))
      ? 'partial'
      : isImage && !replaces
        ? 'image'
        : 'nothing';
  if (isImage && !replaces && found !== 'image') {
    // The image is whole, and of something else: what its run has left has nothing more to say.
    if (left) await forget(path);
    throw existing(path);
  }
  if (left && found === 'nothing') await rm(partialOf(path), { force: true });
  if (left) await write(found !== 'nothing');
  else await makeNew(record, `${JSON.stringify({ ...thisProcess(what), of, complete: false })}\n`);
  // What has its name already is left as it was found, with what is said of it.
  if (found !== 'image') undo.defer(() => forget(path));
  if (found === 'nothing') await makeNew(partialOf(path), '');
  if (found !== 'image') undo.defer(() => rm(partialOf(path), { force: true }));
  return { found, complete: () => write(true), forget: () => forget(path) };
}

/** Removes the record of a killed run whose image is in its place. */
export async function forgetFinished(path: string): Promise<void> {
  const left = await leftAt(path, false);
  if (left?.complete === true && !(await isThere(partialOf(path)))) await forget(path);
}

/**
 * Before anything is looked at: whether something has the name of an image, and no killed run can have left it.
 *
 * @throws QmpBackupError `unsafe`
 */
export async function refuseTaken(path: string): Promise<void> {
  if (!(await isThere(recordOf(path)))) await refuseExisting(path);
}

/** @throws QmpBackupError `unsafe` when anything has that name. */
export async function refuseExisting(path: string): Promise<void> {
  try {
    await lstat(path);
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return;
    throw new QmpBackupError('unsafe', `${path} cannot be written: ${messageOf(error)}`, { cause: error });
  }
  throw existing(path);
}

interface Left {
  readonly of: unknown;
  readonly complete: unknown;
}

/** What a run that is dead has left; undefined where there was none. */
async function leftAt(path: string, breakLock: boolean): Promise<Left | undefined> {
  const record = recordOf(path);
  const text = await readPlainFile(record, LIMIT, `If no restore is running, remove it, and ${partialOf(path)}.`);
  if (text === undefined) return undefined;
  const owner = parseOwner(text);
  // It was killed, or lost its power, before it could say who it was.
  if (!owner) return { of: undefined, complete: false };
  const fate = judgeOwner(owner, thisProcess('look'), inspectProcess);
  if (fate === 'alive' || (fate === 'elsewhere' && !breakLock)) {
    const hint = fate === 'alive' ? 'Wait until it has ended.' : 'If that has surely ended, use --break-lock.';
    throw new QmpBackupError('locked', `${path} is being written: ${describeOwner(owner)}`, { hint });
  }
  const { of, complete } = JSON.parse(text) as Left;
  return { of, complete };
}

function recordOf(path: string): string {
  return `${partialOf(path)}.json`;
}

async function forget(path: string): Promise<void> {
  for (const name of [recordOf(path), `${recordOf(path)}.tmp`]) {
    try {
      await rm(name, { force: true });
    } catch (error) {
      throw fileError('remove', name, error);
    }
  }
}

/** The files with their digests: of another point, or another backup, it is another. */
function digestOf({ line }: ChainSource, format: ImageFormat): string {
  const files = line.map(({ file, virtualSize, sha256 = null, pieces }) => [file, virtualSize, sha256, pieces?.sha256]);
  return createHash('sha256')
    .update(JSON.stringify([format, files]))
    .digest('hex');
}

async function makeNew(path: string, text: string): Promise<void> {
  try {
    const handle = await open(path, 'wx', 0o600);
    try {
      await handle.writeFile(text);
    } finally {
      await handle.close();
    }
  } catch (error) {
    const hint =
      codeOf(error) === 'EEXIST'
        ? 'Another restore is writing it, or one was killed. If none is running, remove it.'
        : 'Choose a folder that this user can write to.';
    throw new QmpBackupError('unsafe', `${path} cannot be made: ${messageOf(error)}`, { cause: error, hint });
  }
}

function existing(path: string): QmpBackupError {
  return new QmpBackupError('unsafe', `${path} exists already and is not overwritten`, {
    hint: 'Choose another name, or move it away.',
  });
}

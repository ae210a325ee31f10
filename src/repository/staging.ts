import { constants, type Stats } from 'node:fs';
import { access, type FileHandle, lstat, mkdir, open, rmdir, unlink } from 'node:fs/promises';
import { dirname } from 'node:path';
import { QmpBackupError } from '../errors.js';
import { renameDurably, syncFolder } from '../host/durable.js';
import { codeOf, fileError } from '../host/file-errors.js';
import { type Owner, setOwnership } from '../host/ownership.js';
import { diskFolder, filePath, partialPath } from './layout.js';

/**
 * The folders and files that one run makes in a target, and their undo: exactly what this run made goes again, in
 * reverse order, and nothing else. Folders are 0700, files 0600, both of `owner` where one is given (needs root).
 * `undo` ends its life in any case: after `keep` it only closes files.
 */
export class Staging {
  readonly #target: string;
  readonly #owner: Owner | undefined;
  readonly #made: (MadeFolder | MadeFile)[] = [];
  #kept = false;

  constructor(target: string, { owner }: { readonly owner?: Owner | undefined } = {}) {
    this.#target = target;
    this.#owner = owner;
  }

  /**
   * Makes the target with the folders above it that are missing.
   *
   * @throws QmpBackupError `unsafe` when it is a file or this user may not write there, `failed` when it cannot be made
   */
  async makeTarget(): Promise<void> {
    await this.#makeFolders(this.#target);
    await this.#refuseUnwritable(this.#target);
  }

  /** Makes the disk's folder unless it is there; a link in its place is refused. */
  async makeDiskFolder(disk: string): Promise<void> {
    const folder = diskFolder(this.#target, disk);
    await this.#makeFolder(folder);
    await this.#refuseUnwritable(folder);
  }

  /**
   * Makes the file that the disk's image will be written into, empty, and returns its absolute path if the target's is
   * absolute. It has its name with `.partial` until it is promoted.
   */
  async reserve(disk: string, file: string): Promise<string> {
    const path = partialPath(this.#target, disk, file);
    await refuseExisting(filePath(this.#target, disk, file));
    try {
      const handle = await open(path, 'wx', 0o600);
      await this.#take(handle, path);
    } catch (error) {
      throw codeOf(error) === 'EEXIST' ? existing(path, error) : fileError('create', path, error);
    }
    return path;
  }

  /** Gives the whole file its name, durably. */
  async promote(disk: string, file: string): Promise<void> {
    const [partial, path] = [partialPath(this.#target, disk, file), filePath(this.#target, disk, file)];
    await refuseExisting(path);
    for (const made of this.#made) if (made.kind === 'file' && made.path === partial) made.promotedTo = path;
    await renameDurably(partial, path);
  }

  /** Where a promoted file is. */
  filePath(disk: string, file: string): string {
    return filePath(this.#target, disk, file);
  }

  /** The point is sealed: from now on undo removes nothing. */
  keep(): void {
    this.#kept = true;
  }

  /**
   * Removes the files and the folders that this run made. A folder that holds something by now stays. Goes on after a
   * failure and throws the first one at the end.
   */
  async undo(): Promise<void> {
    const failures: unknown[] = [];
    for (let made = this.#made.pop(); made; made = this.#made.pop()) {
      try {
        if (made.kind === 'file') await this.#undoFile(made);
        else if (!this.#kept) await removeIfEmpty(made.path);
      } catch (error) {
        failures.push(fileError('remove', made.path, error));
      }
    }
    if (failures.length > 0) throw failures[0];
  }

  async #makeFolders(path: string): Promise<void> {
    try {
      await this.#makeFolder(path);
    } catch (error) {
      if (!(error instanceof QmpBackupError) || codeOf(error.cause) !== 'ENOENT' || dirname(path) === path) throw error;
      await this.#makeFolders(dirname(path));
      await this.#makeFolder(path);
    }
  }

  async #makeFolder(path: string): Promise<void> {
    try {
      await mkdir(path, 0o700);
    } catch (error) {
      if (codeOf(error) === 'EEXIST') return refuseUnlessFolder(path, { links: path === this.#target });
      throw fileError('create the folder', path, error);
    }
    this.#made.push({ kind: 'folder', path });
    try {
      const handle = await open(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
      try {
        await setOwnership(handle, 0o700, this.#owner);
      } finally {
        await handle.close();
      }
    } catch (error) {
      throw fileError('set the owner of', path, error);
    }
    await syncFolder(dirname(path));
  }

  async #refuseUnwritable(folder: string): Promise<void> {
    try {
      await access(folder, constants.W_OK | constants.X_OK);
    } catch (error) {
      throw fileError('write into', folder, error);
    }
  }

  async #undoFile(made: MadeFile): Promise<void> {
    try {
      if (!this.#kept) await removeIfSame(made);
    } finally {
      await made.handle.close();
    }
  }

  async #take(handle: FileHandle, path: string): Promise<void> {
    let taken = false;
    try {
      const { dev, ino } = await handle.stat();
      if (!this.#made.some((made) => made.kind === 'file' && made.dev === dev && made.ino === ino)) {
        this.#made.push({ kind: 'file', path, promotedTo: undefined, handle, dev, ino });
        taken = true;
      }
      await setOwnership(handle, 0o600, this.#owner);
    } finally {
      if (!taken) await handle.close();
    }
  }
}

interface MadeFolder {
  readonly kind: 'folder';
  readonly path: string;
}

/** Known by its inode, held open so that the number is not given to another file: a later run may reuse the name. */
interface MadeFile {
  readonly kind: 'file';
  readonly path: string;
  promotedTo: string | undefined;
  readonly handle: FileHandle;
  readonly dev: number;
  readonly ino: number;
}

async function removeIfSame({ path, promotedTo, dev, ino }: MadeFile): Promise<void> {
  for (const place of promotedTo === undefined ? [path] : [promotedTo, path]) {
    const stats = await lstatIfThere(place);
    if (stats?.dev === dev && stats.ino === ino) await unlink(place);
  }
}

async function removeIfEmpty(folder: string): Promise<void> {
  try {
    await rmdir(folder);
  } catch (error) {
    if (!['ENOENT', 'ENOTEMPTY', 'EEXIST'].includes(codeOf(error) ?? '')) throw error;
  }
}

async function refuseUnlessFolder(path: string, { links }: { readonly links: boolean }): Promise<void> {
  let stats = await lstatIfThere(path);
  if (stats?.isSymbolicLink() === true && links) {
    // The folder the user named may be a link of theirs; what is in it may not lead out of it.
    try {
      const handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
      stats = await handle.stat();
      await handle.close();
    } catch (error) {
      throw fileError('open', path, error);
    }
  }
  if (stats?.isDirectory() === true) return;
  const is = stats?.isSymbolicLink() === true ? 'a symbolic link' : 'a file';
  throw new QmpBackupError('unsafe', `${path} is ${is}, not a folder`, {
    hint: 'Choose another folder, or move that out of the way.',
  });
}

async function refuseExisting(path: string): Promise<void> {
  if (await lstatIfThere(path)) throw existing(path, undefined);
}

function existing(path: string, cause: unknown): QmpBackupError {
  return new QmpBackupError('unsafe', `${path} exists already and is not overwritten`, {
    hint: 'Run it again: every attempt takes a new name.',
    cause,
  });
}

async function lstatIfThere(path: string): Promise<Stats | undefined> {
  try {
    return await lstat(path);
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined;
    throw fileError('look at', path, error);
  }
}

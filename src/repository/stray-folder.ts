import { constants } from 'node:fs';
import { mkdir, open, rename } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { strayFolderName } from '../core/strays.js';
import { syncFolder } from '../host/durable.js';
import { codeOf, fileError } from '../host/file-errors.js';
import { ownerFor, setOwnership } from '../host/ownership.js';
import { isThere } from '../host/is-there.js';

/** Where what is taken away goes, made with the first file: nothing is deleted that somebody may want to look at. */
export class StrayFolder {
  readonly #target: string;
  readonly #now: string;
  #path: string | undefined;

  constructor(target: string, now: Date) {
    this.#target = target;
    this.#now = now.toISOString();
  }

  /** Undefined while nothing is in it. */
  get path(): string | undefined {
    return this.#path;
  }

  /** Moves what is at `path`, in the target, to the same place in here, under another name where one is given; durably. */
  async take(path: string, name: string = basename(path)): Promise<void> {
    this.#path ??= await this.#make();
    const below = dirname(path).slice(this.#target.length + 1);
    const folder = below === '' ? this.#path : join(this.#path, below);
    if (below !== '') await this.#makeOne(folder);
    try {
      await rename(path, join(folder, name));
    } catch (error) {
      throw fileError('move', path, error);
    }
    await syncFolder(folder);
    await syncFolder(dirname(path));
  }

  /** One of its own for each run: a name that is taken is never written over. */
  async #make(): Promise<string> {
    const name = strayFolderName(this.#now);
    for (let turn = 1; ; turn += 1) {
      const path = join(this.#target, turn === 1 ? name : `${name}-${turn}`);
      if (!(await isThere(path))) {
        await this.#makeOne(path);
        return path;
      }
    }
  }

  async #makeOne(path: string): Promise<void> {
    try {
      await mkdir(path, { mode: 0o700 });
      const handle = await open(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
      try {
        await setOwnership(handle, 0o700, await ownerFor(this.#target));
      } finally {
        await handle.close();
      }
    } catch (error) {
      if (codeOf(error) === 'EEXIST') return;
      throw fileError('create the folder', path, error);
    }
    await syncFolder(dirname(path));
  }
}

import { lstat, realpath, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { isComponent } from '../core/names.js';
import { type OptionRules, word, type ValuesOf } from '../core/option-rules.js';
import { type Warn, type Warning, warning } from '../core/warning.js';
import { messageOf, QmpBackupError } from '../errors.js';
import { fileError, isCausedBy, NO_ROOM } from '../host/file-errors.js';
import type { Lock, LockOptions } from './lock.js';

/** The folder of one disk inside its target, as `--dir` names it. */
export interface DiskFolder {
  /** Real path of the disk's folder. */
  readonly dir: string;
  /** The folder that holds it: the target, whose lock and catalog count. */
  readonly target: string;
  readonly disk: string;
}

/** How verbs that have to do with one disk alone are told which: by target and disk id, or by its folder. */
export const DISK_FOLDER_OPTIONS = {
  /** Folder of the backups. */
  target: word('--target'),
  /** The disk, by its disk id. */
  disk: word('--disk'),
  /** Instead of both: the folder of the disk, `<target>/<disk id>`. */
  dir: word('--dir'),
} satisfies OptionRules;

/** @throws QmpBackupError `usage` unless they name one folder */
export function diskFolderOf({ target, disk, dir }: ValuesOf<typeof DISK_FOLDER_OPTIONS>): string {
  const pair = target !== null || disk !== null;
  if (dir !== null && !pair) return dir;
  if (dir === null && target !== null && disk !== null && isComponent(disk)) return join(target, disk);
  const bad = disk !== null && !isComponent(disk);
  throw new QmpBackupError('usage', bad ? `--disk ${disk} is no disk id` : 'the disk is not named, or twice', {
    hint: 'Give --target DIR with --disk ID, or --dir with the folder of the disk. See the disk ids: qmpbackup list --target DIR',
  });
}

/** @throws QmpBackupError `no-catalog` when there is no such folder; `unsafe` for a link, which may lead anywhere */
export async function locateDisk(dir: string): Promise<DiskFolder> {
  const hint = 'Give the folder of one disk: --dir <target>/<disk>';
  try {
    if ((await lstat(resolve(dir))).isSymbolicLink()) {
      throw new QmpBackupError('unsafe', `${dir} is a symbolic link, and the folder of a disk never is`, { hint });
    }
    const real = await realpath(dir);
    if (!(await stat(real)).isDirectory()) {
      throw new QmpBackupError('no-catalog', `${dir} is not a folder`, { hint });
    }
    return { dir: real, target: dirname(real), disk: basename(real) };
  } catch (error) {
    if (error instanceof QmpBackupError) throw error;
    if (isCausedBy(error, ['EACCES', 'EPERM'])) throw fileError('look at', dir, error);
    throw new QmpBackupError('no-catalog', `${dir} cannot be opened: ${messageOf(error)}`, { hint, cause: error });
  }
}

/** Path of a file of the disk whose name was read from the folder or checked by the catalog. */
export function pathInDisk(folder: DiskFolder, file: string): string {
  return join(folder.dir, file);
}

type LockTarget = (target: string, options: LockOptions) => Promise<Lock>;

/**
 * The target's lock for a command that only reads: nobody may merge meanwhile. Where the folder cannot be written, or its file
 * system is full, no rebase of this user can begin in it either, so reading goes on without a lock and says so.
 */
export async function lockForReading(
  lockTarget: LockTarget,
  target: string,
  options: LockOptions,
  warn: Warn,
): Promise<Lock | undefined> {
  try {
    return await lockTarget(target, options);
  } catch (error) {
    if (!takesNothing(error)) throw error;
    warn(withoutLock(target, error));
    return undefined;
  }
}

/** What is said where files are read that others may change meanwhile. */
export function withoutLock(target: string, why: unknown): Warning {
  const text = `${target} cannot be locked (${messageOf(why)}); make sure that no rebase runs in it meanwhile`;
  return warning('not-locked', text);
}

/** Whether an error, or one below it, is that nothing can be written into a folder. */
export function takesNothing(error: unknown): boolean {
  return isCausedBy(error, ['EROFS', 'EACCES', 'EPERM', ...NO_ROOM]);
}

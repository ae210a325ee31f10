import { join, resolve } from 'node:path';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { isComponent } from '../core/names.js';
import { QmpBackupError } from '../errors.js';

/** Parsers of option values; a bad value is refused in words. */

const UNITS: Readonly<Record<string, number>> = { '': 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 };

/** Bytes: a plain number, or one with K, M, G or T (powers of 1024). */
export function parseBytes(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?$/i.exec(text.trim());
  const unit = UNITS[(match?.[2] ?? '?').toUpperCase()];
  if (!match || unit === undefined) {
    throw new InvalidArgumentError('give bytes, such as 1048576, 512K, 20M or 1G.');
  }
  return Math.round(Number(match[1]) * unit);
}

/** A timer of Node's takes no more than 24 days, and nothing here is waited for that long. */
const LONGEST_SECONDS = 86_400;

/** Seconds, returned as milliseconds. */
export function parseSeconds(text: string): number {
  const seconds = Number(text.trim());
  if (text.trim() === '' || !(seconds > 0 && seconds <= LONGEST_SECONDS)) {
    throw new InvalidArgumentError('give a number of seconds greater than 0, at most a day.');
  }
  return Math.round(seconds * 1000);
}

/** An option in seconds whose value is milliseconds; the help names its default as one would give it. */
export function secondsOption(flags: string, description: string, seconds: number): Option {
  return new Option(flags, description).argParser(parseSeconds).default(seconds * 1000, `${seconds}`);
}

/** A comma list; the option may be given several times. */
export function parseList(text: string, previous: readonly string[] = []): readonly string[] {
  const names = text
    .split(',')
    .map((name) => name.trim())
    .filter((name) => name !== '');
  // All disks, say, is not what somebody meant who named none.
  if (names.length === 0) throw new InvalidArgumentError('give at least one name.');
  return [...previous, ...names];
}

export function collect(text: string, previous: readonly string[] = []): readonly string[] {
  return [...previous, text];
}

/** `NAME=FILE`, also `NAME=raw:FILE` and `NAME=qcow2:FILE`. */
export interface ImageOption {
  readonly name: string;
  /** Absolute. */
  readonly path: string;
  readonly format: 'qcow2' | 'raw' | null;
}

/** The option may be given several times, each with another name and file. */
export function parseImages(text: string, previous: readonly ImageOption[] = []): readonly ImageOption[] {
  const [, name, format, file] = /^([^=]+)=(?:(raw|qcow2):)?(.+)$/s.exec(text) ?? [];
  if (name === undefined || file === undefined) {
    throw new InvalidArgumentError('give NAME=FILE, such as disk1=/var/lib/vm/disk1.qcow2.');
  }
  if (!isComponent(name)) {
    throw new InvalidArgumentError(`${name} is no disk id: letters, digits and . _ + : @ - only.`);
  }
  const path = resolve(file);
  const twin = previous.find((each) => each.name === name || each.path === path);
  if (twin) throw new InvalidArgumentError(`${twin.name}=${twin.path} was given before.`);
  return [...previous, { name, path, format: format === 'raw' || format === 'qcow2' ? format : null }];
}

/** One disk of a target: `--target DIR --disk ID` as other commands name it, or `--dir FOLDER` as the Python tool does. */
export interface DiskFlags {
  readonly target?: string;
  readonly disk?: string;
  readonly dir?: string;
}

export function addDiskOptions(command: Command): Command {
  return command
    .option('-t, --target <dir>', 'folder of the backups')
    .option('--disk <id>', 'the disk, by its disk id')
    .option('--dir <diskdir>', 'instead of both: the folder of the disk, <target>/<disk id>');
}

/** @throws QmpBackupError `usage` unless they name one folder */
export function diskFolderOf({ target, disk, dir }: DiskFlags): string {
  const pair = target !== undefined || disk !== undefined;
  if (dir !== undefined && !pair) return dir;
  if (dir === undefined && target !== undefined && disk !== undefined && isComponent(disk)) return join(target, disk);
  const bad = disk !== undefined && !isComponent(disk);
  throw new QmpBackupError('usage', bad ? `--disk ${disk} is no disk id` : 'the disk is not named, or twice', {
    hint: 'Give --target DIR with --disk ID, or --dir with the folder of the disk. See the disk ids: qmpbackup list --target DIR',
  });
}

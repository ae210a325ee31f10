import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { listNames } from '../core/listed-names.js';
import type { RebaseFile } from '../core/rebase-plan.js';
import { QmpBackupError } from '../errors.js';
import { replaceFile, syncFolder } from '../host/durable.js';
import { readPlainFile } from '../host/plain-file.js';
import { examine } from '../qemu-tools/examine.js';
import type { LegacyChain } from './legacy-folder.js';

/**
 * A disk folder without a catalog, as the Python tools make it: which of its chains is meant, and the note that takes
 * the catalog's place while a merge is under way in it.
 */

/**
 * The chain that holds `until`, else the newest.
 *
 * @throws QmpBackupError `usage` when there is no such file or it is not clear which disk is meant; `unsafe` when the
 * end of the chain is not the disk's last state
 */
export function chosenChain(dir: string, chains: readonly LegacyChain[], until: string | undefined): LegacyChain {
  const names = chains.flatMap(({ files }) => files.map(({ name }) => name));
  if (until !== undefined) {
    const wanted = [until, `${until}.qcow2`];
    const found = chains.find(({ files }) => files.some(({ name }) => wanted.includes(name)));
    if (found) return found;
    throw new QmpBackupError('usage', `there is no file ${until} in ${dir}`, {
      hint: `There are: ${listNames(names)}`,
    });
  }
  const newest = chains.toSorted((a, b) => firstNumber(a) - firstNumber(b)).at(-1);
  if (!newest) {
    throw new QmpBackupError('no-catalog', `there is no backup in ${dir}`, {
      hint: 'Give the folder of one disk: <target>/<disk>',
    });
  }
  const rival = chains.find(({ disk, files }) => disk !== newest.disk && lastNumber(files) >= firstNumber(newest));
  if (rival) {
    throw new QmpBackupError('usage', `${dir} holds backups of several disks: ${newest.disk}, ${rival.disk}`, {
      hint: 'Name the last file that is meant: --until NAME',
    });
  }
  if (newest.refused !== null) {
    throw new QmpBackupError('unsafe', `the newest chain in ${dir} is not whole: ${newest.refused}`, {
      hint: `Name the file whose state you want: --until NAME. There are: ${listNames(newest.files.map(({ name }) => name))}`,
    });
  }
  return newest;
}

function firstNumber({ files }: LegacyChain): number {
  return files[0]?.number ?? 0;
}

function lastNumber(files: LegacyChain['files']): number {
  return files.at(-1)?.number ?? 0;
}

/**
 * The files of a chain, each header examined. Their links may be missing or lead to the same name in a folder of old:
 * the order comes from the names, and no link of theirs is ever followed.
 */
export async function legacyFiles(
  dir: string,
  chain: LegacyChain,
  note: RebaseNote | undefined,
): Promise<readonly RebaseFile[]> {
  const files: RebaseFile[] = [];
  const merging = new Set(note ? [note.full, ...note.absorbed] : []);
  for (const { name } of chain.files) {
    const parent = files.at(-1)?.file ?? null;
    // What builds on the head of an interrupted merge may have been linked to the FULL already.
    const links = parent === null ? [null] : [null, parent, ...(note && parent === note.head ? [note.full] : [])];
    const { virtualSize } = await examine(dir, { file: name, links, loose: true });
    const level = parent === null ? 'full' : 'inc';
    files.push({ file: name, parent, level, state: merging.has(name) ? 'merging' : 'whole', virtualSize });
  }
  return files;
}

/** @throws QmpBackupError `unsafe` while a merge of ours in the folder is unfinished: its chain is not what it seems. */
export function refuseUnfinished(dir: string, note: RebaseNote | undefined): void {
  if (!note) return;
  throw new QmpBackupError('unsafe', `a merge of ${note.head} into ${note.full} in ${dir} was interrupted`, {
    hint: `Finish it: qmpbackup rebase --dir ${dir}`,
  });
}

/** What a merge in such a folder is about to do, or, once `merged`, which files are left to be removed. */
export interface RebaseNote {
  readonly full: string;
  readonly head: string;
  /** Files between the two. */
  readonly absorbed: readonly string[];
  readonly phase: 'merging' | 'merged';
}

export const REBASE_NOTE = 'qmpbackup-merge.json';
const SCHEMA = 1;
const LIMIT = 1024 * 1024;
const FILE_NAME = /^(?:FULL|INC)-\d+(?:[-.][^/]*)?$/;

/** @throws QmpBackupError `unsafe` when it is there and cannot be understood */
export async function readRebaseNote(dir: string): Promise<RebaseNote | undefined> {
  const path = join(dir, REBASE_NOTE);
  const hint =
    'It says which files an interrupted rebase was merging. Without it the chain in this folder is not to be trusted.';
  const text = await readPlainFile(path, LIMIT, hint);
  if (text === undefined) return undefined;
  const note = parseNote(text);
  if (note) return note;
  throw new QmpBackupError('unsafe', `${path} is damaged or was written by a newer qmpbackup`, { hint });
}

export async function writeRebaseNote(dir: string, note: RebaseNote): Promise<void> {
  await replaceFile(join(dir, REBASE_NOTE), `${JSON.stringify({ schema: SCHEMA, ...note }, null, 1)}\n`, {
    mode: 0o600,
  });
}

export async function removeRebaseNote(dir: string): Promise<void> {
  await rm(join(dir, REBASE_NOTE), { force: true });
  await syncFolder(dir);
}

function parseNote(text: string): RebaseNote | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined; // Damaged: the caller says so, with the path and what the note is for.
  }
  if (typeof value !== 'object' || value === null) return undefined;
  const { schema, full, head, absorbed, phase } = value as Partial<Record<keyof RebaseNote | 'schema', unknown>>;
  // The names in it are removed one day: whoever wrote it, they stay names of backup files in this folder.
  const isName = (name: unknown): name is string => typeof name === 'string' && FILE_NAME.test(name);
  if (schema !== SCHEMA || !isName(full) || !isName(head)) return undefined;
  if (!Array.isArray(absorbed) || !absorbed.every(isName)) return undefined;
  if (phase !== 'merging' && phase !== 'merged') return undefined;
  const distinct = new Set([full, head, ...absorbed]).size === absorbed.length + 2;
  return distinct ? { full, head, absorbed, phase } : undefined;
}

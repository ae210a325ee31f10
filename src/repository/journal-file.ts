import { rm } from 'node:fs/promises';
import { type Journal, journalValue, readJournalValue } from '../core/journal.js';
import { QmpBackupError } from '../errors.js';
import { replaceFile, syncFolder } from '../host/durable.js';
import { codeOf, fileError } from '../host/file-errors.js';
import { ownerFor } from '../host/ownership.js';
import { readJsonFile } from '../host/plain-file.js';
import { journalPath } from './layout.js';

/** `run.json` on disk: what a run may leave behind, durable before the run changes anything. */

/** Bytes. */
const LIMIT = 16 * 1024 * 1024;

const UNREADABLE_HINT =
  'It says what a run that died left in QEMU and here. Make sure that no run is under way and the guest is not frozen ' +
  '(info --show jobs), move the file away, and look for *.partial files and bitmaps that no target needs.';

/**
 * The journal of a run that is under way or died, or undefined when there is none.
 *
 * @throws QmpBackupError `unsafe` when it cannot be understood
 */
export async function readJournal(target: string): Promise<Journal | undefined> {
  const path = journalPath(target);
  const value = await readJsonFile(path, LIMIT, UNREADABLE_HINT);
  if (value === undefined) return undefined;
  const journal = readJournalValue(value);
  if (journal) return journal;
  throw new QmpBackupError('unsafe', `${path} is not a journal that this version of qmpbackup understands`, {
    hint: UNREADABLE_HINT,
  });
}

/** @throws QmpBackupError as `replaceFile`, or `failed` when `journal` could not be read back */
export async function writeJournal(target: string, journal: Journal): Promise<void> {
  const path = journalPath(target);
  const value = journalValue(journal);
  if (!readJournalValue(value)) throw new QmpBackupError('failed', `refused to write a wrong journal to ${path}`);
  await replaceFile(path, `${JSON.stringify(value, null, 1)}\n`, { mode: 0o600, owner: await ownerFor(target) });
}

/** Removes the journal, durably; it need not be there. */
export async function removeJournal(target: string): Promise<void> {
  const path = journalPath(target);
  try {
    await rm(path);
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return;
    throw fileError('remove', path, error);
  }
  await syncFolder(target);
}

import { type Journal, JOURNAL_SCHEMA, type JournalOwner } from '../../core/journal.js';
import type { BackupRun } from '../backup-run.js';

/**
 * The journal of an attempt that has changed nothing: whoever writes it adds what the attempt is about to change.
 * `owner` tells in which VM that is; `how` is added to what the run does, for people.
 */
export function newJournal({ attempt, context, options, identity }: BackupRun, owner: JournalOwner, how = ''): Journal {
  return {
    schema: JOURNAL_SCHEMA,
    attempt,
    startedAt: context.now().toISOString(),
    what: `backup --level ${options.level}${how}`,
    owner,
    vm: identity,
    disks: [],
    madeFolders: [],
    freezes: null,
    stops: false,
    scratch: [],
    servesNbd: false,
  };
}

import { CATALOG_SCHEMA, type Journal } from '../../core/catalog.js';
import type { BackupRun } from '../backup-run.js';

/**
 * The journal of an attempt that has changed nothing: whoever writes it adds what the attempt is about to change.
 * `monitor` tells in which VM that is; `how` is added to what the run does, for people.
 */
export function newJournal({ attempt, context, options, identity }: BackupRun, monitor: string, how = ''): Journal {
  return {
    schema: CATALOG_SCHEMA,
    attempt,
    startedAt: context.now().toISOString(),
    what: `backup --level ${options.level}${how}`,
    monitor,
    vm: identity,
    disks: [],
    madeFolders: [],
    freezes: null,
    stops: false,
    scratch: [],
    servesNbd: false,
  };
}

/** How a journal names a libvirt domain. */
export function monitorOfDomain(uuid: string): string {
  return `libvirt domain ${uuid}`;
}

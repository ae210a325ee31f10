import { guardNodeName } from '../../core/names.js';
import { meaningOf, type SeenState } from '../../core/run-state.js';
import { smallestVhd } from '../../core/smallest-vhd.js';
import { QmpBackupError } from '../../errors.js';
import type { SocketOwner } from '../../host/socket-owner.js';
import { mayGo, stayHere } from '../../qemu/stay-here.js';
import type { QmpClient } from '../../qmp/client.js';
import { run } from '../../qmp/commands.js';
import { guardFile, makeGuardFile, removeGuardFile } from '../../repository/guard-file.js';
import type { QmpRun } from './run.js';

/** @throws QmpBackupError `unsafe` where the disks of the VM are not its own to be touched now (domain/run-state) */
export function refuseRunState(vm: SeenState): void {
  const meaning = meaningOf(vm);
  if (meaning.kind !== 'refused') return;
  throw new QmpBackupError('unsafe', `the VM ${meaning.why}`, { hint: `Nothing was changed. ${meaning.todo}` });
}

/**
 * Keeps the VM from being migrated until `mayGo`: no filter, bitmap or job may be in a QEMU whose guest goes elsewhere. Null when it
 * is held; else why this QEMU cannot be.
 *
 * @throws QmpBackupError `unsafe` where a migration is under way, or has ended since the VM was looked at
 */
export async function holdVm(
  { session, target, attempt }: QmpRun,
  owner: SocketOwner | undefined,
): Promise<string | null> {
  const { client } = session;
  const [path, node] = [guardFile(target), guardNodeName(attempt)];
  await makeGuardFile(path, smallestVhd(), owner);
  try {
    const stay = await stayHere(client, node, path);
    // Again, as late as can be: from here on no migration begins.
    await refuseMoved(client).catch(async (error: unknown) => {
      await mayGo(client, node);
      throw error;
    });
    if (stay.kind === 'held') return null;
    if (stay.kind === 'free') return stay.words;
    throw new QmpBackupError('unsafe', `the VM is being migrated, or a snapshot of it is being taken: ${stay.words}`, {
      hint: 'Nothing was changed. Run it again when that has ended; after a migration, against the VM that the guest then runs in.',
    });
  } finally {
    await removeGuardFile(path);
  }
}

/** Before anything is taken out of the VM after its point was sealed, and when a run that failed is undone. */
export async function refuseMoved(client: QmpClient): Promise<void> {
  const [{ status, running }, migration] = await Promise.all([
    run(client, 'query-status'),
    run(client, 'query-migrate'),
  ]);
  refuseRunState({ status, running, migration: migration.status ?? null, inactive: false });
}

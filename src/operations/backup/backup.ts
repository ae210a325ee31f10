import { resolve } from 'node:path';
import type { Backend } from '../../backends/backend.js';
import { openOfflineBackend } from '../../backends/offline/backend.js';
import { openQmpBackend } from '../../backends/qmp/backend.js';
import { type BackupOptions, backupOptions, type BackupRequest } from '../../backends/backup-options.js';
import type { BackupContext, BackupResult } from '../../backends/backup-run.js';
import { contextOf } from '../../backends/verb-context.js';
import { QmpBackupError } from '../../errors.js';
import { type Unwind, unwinding } from '../../flow/unwind.js';
import { freeSpace } from '../../host/free-space.js';
import { backUp } from './run.js';
import { endStream, streamFolder } from './stream.js';

/**
 * One backup, as data flows: lock, catalog and VM state, reconcile, plan, journal and staged targets, [freeze]
 * transaction [thaw], watched jobs, seal, old bitmaps retired. Each stage takes one value and hands one on.
 */
export function backup(request: BackupRequest, given: Partial<BackupContext> = {}): Promise<BackupResult> {
  return unwinding(async (unwind) => {
    const asked = backupOptions(request);
    const { archive } = given;
    const context: BackupContext = { ...contextOf(given), archive };
    if (asked.streams && !archive) throw new QmpBackupError('usage', 'nobody takes the archive');
    const options = asked.streams ? { ...asked, target: await streamFolder(unwind) } : asked;
    // First of all, and before anything is changed: whatever touches a target that hangs would hang too.
    await freeSpace(resolve(options.target), { timeoutMs: options.stallTimeoutMs, signal: context.signal });
    const backend = await openBackend(options, context, unwind);
    const result = await backUp(options, context, backend, unwind);
    if (!options.streams || !archive) return result;
    await endStream(result, { now: context.now, archive });
    return { ...result, target: '-' };
  });
}

async function openBackend(options: BackupOptions, { signal, trace }: BackupContext, unwind: Unwind): Promise<Backend> {
  const { vm, streams, target } = options;
  const access = { breakLock: options.breakLock, purpose: streams ? 'backup to a stream' : `backup into ${target}` };
  switch (vm.kind) {
    case 'monitor':
      return openQmpBackend({ ...options, ...vm, ...access, trace }, unwind);
    case 'domain': {
      // A quarter of the program, XML and NBD with it, which no other backup reads (docs/decisions/0001).
      const { openDomainBackend } = await import('../../backends/libvirt/backend.js');
      return openDomainBackend({ ...vm, ...access, timeoutMs: options.stallTimeoutMs }, options, signal, unwind);
    }
    case 'images':
      return openOfflineBackend({ ...vm, ...access, signal }, unwind);
  }
}

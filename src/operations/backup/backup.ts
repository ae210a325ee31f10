import type { Backend } from '../../backends/backend.js';
import { openOfflineBackend } from '../../backends/offline/backend.js';
import { openQmpBackend } from '../../backends/qmp/backend.js';
import { type BackupOptions, backupOptions, type BackupRequest } from '../../backends/backup-options.js';
import type { BackupContext, BackupResult } from '../../backends/backup-run.js';
import { contextOf } from '../../backends/verb-context.js';
import { type Unwind, unwinding } from '../../flow/unwind.js';
import { freeSpace } from '../../host/free-space.js';
import { backUp } from './run.js';
import { storedIn } from './check-space.js';
import { streamFolder } from './stream.js';

/**
 * One backup, as data flows: lock, catalog and VM state, reconcile, plan, journal and staged targets, [freeze]
 * transaction [thaw], watched jobs, seal, old bitmaps retired. Each stage takes one value and hands one on.
 */
export function backup(request: BackupRequest, given: Partial<BackupContext> = {}): Promise<BackupResult> {
  return unwinding(async (unwind) => {
    const asked = backupOptions(request);
    const options = asked.output === null ? asked : { ...asked, target: await streamFolder(unwind) };
    const context = { ...contextOf(given), archive: given.archive };
    // First of all, and before anything is changed: whatever touches a target that hangs would hang too.
    await freeSpace(storedIn(options), { timeoutMs: options.stallTimeoutMs, signal: context.signal });
    return backUp(options, context, await openBackend(options, context, unwind), unwind);
  });
}

async function openBackend(options: BackupOptions, { signal, trace }: BackupContext, unwind: Unwind): Promise<Backend> {
  const { vm, output, target } = options;
  const into = output === '-' ? 'to a stream' : `into ${output ?? target}`;
  const access = { breakLock: options.breakLock, purpose: `backup ${into}` };
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

import { resolve } from 'node:path';
import type { Backend } from '../../backends/backend.js';
import { type BackupOptions, backupOptions, type BackupRequest } from '../../backends/backup-options.js';
import type { BackupContext, BackupResult } from '../../backends/backup-run.js';
import { contextOf } from '../../backends/verb-context.js';
import { allOf } from '../../flow/all-of.js';
import { type Unwind, unwinding } from '../../flow/unwind.js';
import { freeSpace } from '../../host/free-space.js';
import type * as BackUp from './run.js';

/**
 * One backup, as data flows: lock, catalog and VM state, reconcile, plan, journal and staged targets, [freeze]
 * transaction [thaw], watched jobs, seal, old bitmaps retired. Each stage takes one value and hands one on.
 */
export function backup(request: BackupRequest, given: Partial<BackupContext> = {}): Promise<BackupResult> {
  return unwinding(async (unwind) => {
    const [options, context] = [backupOptions(request), contextOf(given)];
    // First of all, and before anything is changed: whatever touches a target that hangs would hang too.
    await freeSpace(resolve(options.target), { timeoutMs: options.stallTimeoutMs, signal: context.signal });
    const [backend, { backUp }] = await openBackend(options, context, unwind);
    return backUp(options, context, backend, unwind);
  });
}

type Rest = typeof BackUp;

/** The way to the VM, and the rest of a backup, which is loaded while the VM is asked. */
async function openBackend(
  options: BackupOptions,
  { signal, trace }: BackupContext,
  unwind: Unwind,
): Promise<readonly [Backend, Rest]> {
  const { vm } = options;
  const access = { breakLock: options.breakLock, what: `backup into ${options.target}` };
  const rest = (): Promise<Rest> => import('./run.js');
  switch (vm.kind) {
    case 'monitor': {
      const { openQmpBackend } = await import('../../backends/qmp/backend.js');
      return allOf([openQmpBackend({ ...options, ...vm, ...access, trace }, unwind), rest()]);
    }
    case 'domain': {
      const { openDomainForBackup } = await import('../../backends/libvirt/session.js');
      const timeoutMs = options.stallTimeoutMs;
      const [session, { domainBackend }, loaded] = await allOf([
        openDomainForBackup({ ...vm, ...access, timeoutMs }, unwind),
        import('../../backends/libvirt/backend.js'),
        rest(),
      ]);
      return [await domainBackend(session, options, signal), loaded];
    }
    case 'images': {
      const { openOfflineBackend } = await import('../../backends/offline/backend.js');
      return allOf([openOfflineBackend({ ...vm, ...access, signal }, unwind), rest()]);
    }
  }
}

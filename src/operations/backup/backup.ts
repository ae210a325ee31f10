import { resolve } from 'node:path';
import type { Backend } from '../../backends/backend.js';
import { openOfflineBackend } from '../../backends/offline/backend.js';
import { openQmpBackend } from '../../backends/qmp/backend.js';
import { type BackupOptions, backupOptions, type BackupRequest } from '../../backends/backup-options.js';
import type { BackupContext, BackupResult, StageContext } from '../../backends/backup-run.js';
import { contextOf } from '../../backends/verb-context.js';
import { type Unwind, unwinding } from '../../flow/unwind.js';
import { freeSpace } from '../../host/free-space.js';
import { backUp } from './run.js';
import { endRaw, rawSink, streamFolder } from './stream.js';

/**
 * One backup, as data flows: lock, catalog and VM state, reconcile, plan, journal and staged targets, [freeze]
 * transaction [thaw], watched jobs, seal, old bitmaps retired. Each stage takes one value and hands one on.
 */
export function backup(request: BackupRequest, given: Partial<BackupContext> = {}): Promise<BackupResult> {
  return unwinding(async (unwind) => {
    const asked = backupOptions(request);
    const options = asked.output === null ? asked : { ...asked, target: await streamFolder(unwind) };
    const outside = { ...contextOf(given), archive: given.archive };
    const raw = await rawSink(options, outside, unwind);
    const context: StageContext = { ...outside, raw };
    // First of all, and before anything is changed: whatever touches a target that hangs would hang too.
    await freeSpace(resolve(options.target), { timeoutMs: options.stallTimeoutMs, signal: context.signal });
    const backend = await openBackend(options, context, unwind);
    const result = await backUp(options, context, backend, unwind);
    if (!raw || asked.output === null) return result;
    await endRaw(result, raw);
    return { ...result, target: asked.output };
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

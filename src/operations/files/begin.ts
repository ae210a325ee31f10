import type { VerbContext, WarningEvent } from '../../backends/verb-context.js';
import type { Warn } from '../../core/warning.js';
import type { Unwind } from '../../flow/unwind.js';
import { openForLong } from '../../repository/open-for-long.js';
import type { OpenPoint } from '../../repository/open-point.js';
import { realTarget } from '../../repository/real-target.js';
import { openFiles, type OpenFiles } from './open-files.js';
import type { FilesOptions } from './options.js';

export type FilesEvent =
  | WarningEvent
  /** An appliance is started, which takes a minute or two where there is no KVM. */
  | { readonly kind: 'slow' }
  /** A file is written. */
  | { readonly kind: 'got'; readonly path: string };

export type FilesContext = VerbContext<FilesEvent>;

export async function openPointForFiles(
  { point: name, at, disks, breakLock, ...options }: FilesOptions,
  { signal, report }: FilesContext,
  unwind: Unwind,
): Promise<{ readonly point: OpenPoint; readonly files: OpenFiles }> {
  const warn: Warn = (said) => report({ kind: 'warning', ...said });
  const target = await realTarget(options.target);
  const point = await openForLong(
    { point: name, at, disks },
    { target, verb: 'files', breakLock, signal, warn },
    unwind,
  );
  const { verify } = options;
  const files = await openFiles(point, { verify, signal, onSlow: () => report({ kind: 'slow' }) }, unwind);
  return { point, files };
}

/**
 * What `body` makes of what it has read, as far as that was proved; what it fails of counts where nothing read is damaged.
 *
 * @throws QmpBackupError `damaged`, and what `body` throws
 */
export async function proved<T>({ prove }: OpenFiles, { signal }: FilesContext, body: () => Promise<T>): Promise<T> {
  const result = await body().catch(async (error: unknown) => {
    signal.throwIfAborted();
    await prove();
    throw error;
  });
  await prove();
  return result;
}

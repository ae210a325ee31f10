import type { BackupRun, Instant } from '../../backends/backup-run.js';
import { type Begun, type CopyAttempt, type Freezer, NOTHING_KEPT } from '../../backends/copy-method.js';
import { warning } from '../../core/warning.js';
import { messageOf, NotThawed, QmpBackupError } from '../../errors.js';

/**
 * [freeze] begin [thaw]. The point is `filesystem` only if more than zero file systems froze and the guard still found
 * them frozen afterwards.
 */
export async function takeInstant(run: BackupRun, copy: Pick<CopyAttempt, 'freezer' | 'begin'>): Promise<Instant> {
  const { signal, warn } = run;
  const { freezer } = copy;
  const frozen = freezer ? await freeze(freezer, run) : null;
  const at = run.context.now().toISOString();
  let outcome: { readonly begun: Begun } | { readonly error: unknown };
  // Thaws at once, and what is under way is awaited all the same; what comes of the thaw, finish() tells.
  const onAbort = (): void => void freezer?.thaw().catch(() => undefined);
  if (frozen) signal.addEventListener('abort', onAbort, { once: true });
  try {
    outcome = { begun: await copy.begin() };
  } catch (error) {
    outcome = { error };
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
  const thawed = freezer && frozen ? await freezer.finish() : null;
  if ('error' in outcome) throw outcome.error;
  signal.throwIfAborted();

  const consistent = frozen && frozen.fileSystems > 0 && thawed?.statusAfterTransaction === 'frozen';
  if (frozen && !consistent) {
    const why = frozen.fileSystems === 0 ? 'the agent froze no file system' : 'the guest did not stay frozen';
    if (run.options.quiesce === 'require') {
      throw new QmpBackupError('failed', `--quiesce=require: ${why}`, NOTHING_KEPT);
    }
    warn(warning('not-frozen', `${why}: the point is marked crash`));
  }
  return {
    at,
    ...outcome.begun,
    consistency: consistent ? 'filesystem' : 'crash',
    freeze:
      frozen && thawed
        ? { fileSystems: frozen.fileSystems, frozenMs: thawed.freezeAnswerToThawRequestMs ?? null }
        : null,
  };
}

async function freeze(
  freezer: Freezer,
  { options, warn }: BackupRun,
): Promise<{ readonly fileSystems: number } | null> {
  try {
    return await freezer.freeze();
  } catch (error) {
    if (!(error instanceof QmpBackupError)) throw error;
    // A guest that may still be frozen is no case for going on.
    if (error.code === 'interrupted' || error instanceof NotThawed) throw error;
    if (options.quiesce === 'require') {
      throw new QmpBackupError('failed', `--quiesce=require: the guest was not frozen: ${messageOf(error)}`, {
        ...NOTHING_KEPT,
        cause: error,
      });
    }
    warn(warning('not-frozen', `the guest was not frozen: ${messageOf(error)}: the point is marked crash`));
    return null;
  }
}

import { messageOf, NotThawed, QmpBackupError } from '../../errors.js';
import type { FreezeStatus } from '../../guest-agent/client.js';
import type { Instant } from '../backup-run.js';

/** What a guard that freezes and thaws has to offer. */
export interface Freezer {
  freeze(): Promise<{ readonly fileSystems: number }>;
  /** Right after the instant. */
  finish(): Promise<{
    readonly statusAfterTransaction: FreezeStatus | 'unknown';
    readonly freezeAnswerToThawRequestMs?: number | undefined;
  }>;
  thaw(): Promise<unknown>;
  release(): Promise<void>;
}

export interface InstantOptions {
  readonly now: () => Date;
  /** A guest that cannot be frozen fails the run instead of making the point `crash`. */
  readonly requireFreeze: boolean;
  /** Thaws at once; the outcome of what is under way is awaited all the same. */
  readonly signal: AbortSignal;
  readonly warn: (text: string) => void;
  /** The error of a beginning whose outcome may not be known yet, once it is. */
  readonly settle: (error: unknown) => Promise<unknown>;
}

/** Of a run that `--quiesce=require` fails after the instant. */
export const NOTHING_KEPT = { hint: 'Nothing was kept of this run.' } as const;

/**
 * [freeze] begin [thaw]. The point is `filesystem` only if more than zero file systems froze and the guard still found
 * them frozen afterwards.
 */
export async function takeInstant(
  guard: Freezer | null,
  options: InstantOptions,
  begin: () => Promise<void>,
): Promise<Pick<Instant, 'at' | 'consistency' | 'freeze'>> {
  const frozen = guard ? await freeze(guard, options) : null;
  const at = options.now().toISOString();
  let outcome: { readonly error: unknown } | null = null;
  // What comes of it, finish() tells.
  const onAbort = (): void => void guard?.thaw().catch(() => undefined);
  if (frozen) options.signal.addEventListener('abort', onAbort, { once: true });
  try {
    await begin();
  } catch (error) {
    outcome = { error };
  } finally {
    options.signal.removeEventListener('abort', onAbort);
  }
  const thawed = guard && frozen ? await guard.finish() : null;
  if (outcome) throw await options.settle(outcome.error);
  options.signal.throwIfAborted();

  const consistent = frozen && frozen.fileSystems > 0 && thawed?.statusAfterTransaction === 'frozen';
  if (frozen && !consistent) {
    const why = frozen.fileSystems === 0 ? 'the agent froze no file system' : 'the guest did not stay frozen';
    if (options.requireFreeze) {
      throw new QmpBackupError('failed', `--quiesce=require: ${why}`, NOTHING_KEPT);
    }
    options.warn(`${why}: the point is marked crash`);
  }
  return {
    at,
    consistency: consistent ? 'filesystem' : 'crash',
    freeze:
      frozen && thawed
        ? { fileSystems: frozen.fileSystems, frozenMs: thawed.freezeAnswerToThawRequestMs ?? null }
        : null,
  };
}

async function freeze(guard: Freezer, options: InstantOptions): Promise<{ readonly fileSystems: number } | null> {
  try {
    return await guard.freeze();
  } catch (error) {
    if (!(error instanceof QmpBackupError)) throw error;
    // A guest that may still be frozen is no case for going on.
    if (error.code === 'interrupted' || error instanceof NotThawed) throw error;
    if (options.requireFreeze) {
      throw new QmpBackupError('failed', `--quiesce=require: the guest was not frozen: ${messageOf(error)}`, {
        ...NOTHING_KEPT,
        cause: error,
      });
    }
    options.warn(`the guest was not frozen: ${messageOf(error)}: the point is marked crash`);
    return null;
  }
}

import type { Consistency } from '../domain/catalog.js';
import { messageOf, QmpBackupError } from '../errors.js';
import { GuestNotThawed } from '../guest-agent/errors.js';
import type { FreezeGuard } from '../guest-agent/freeze-guard.js';
import { insertFilters } from '../qemu/fleece.js';
import type { PauseGuard } from '../qemu/pause-guard.js';
import { fleecedOf, startPoint, type TransactionDisk, type TransactionOptions } from '../qemu/transaction.js';
import type { QmpClient } from '../qmp/client.js';
import { QmpTimeout } from '../qmp/errors.js';

/** How the instant of a point was taken. */
export interface Instant {
  /** ISO 8601, just before the transaction. */
  readonly at: string;
  readonly consistency: Consistency;
  /** Round trip of the transaction, in milliseconds. */
  readonly transactionMs: number;
  readonly freeze: Freeze | null;
  /** Milliseconds that the VM stood still for fleecing; null where it did not. */
  readonly pausedMs: number | null;
}

export interface Freeze {
  readonly fileSystems: number;
  /** From the agent's freeze answer to the thaw request, in milliseconds; null where the guard could not tell. */
  readonly frozenMs: number | null;
}

export interface TakeOptions extends TransactionOptions {
  readonly now: () => Date;
  /** A guest that cannot be frozen fails the run instead of making the point `crash`. */
  readonly requireFreeze: boolean;
  /** Thaws at once; the outcome of a transaction that is under way is awaited all the same. */
  readonly signal: AbortSignal;
  readonly warn: (text: string) => void;
}

export interface Guards {
  readonly freeze: FreezeGuard | null;
  /** For fleecing of a VM that runs. */
  readonly pause: PauseGuard | null;
}

/**
 * [freeze] [stop, filters] transaction [continue] [thaw]. Only the transaction and the agent's status lie between freeze and thaw. The point is
 * `filesystem` only if more than zero file systems froze and the agent still said `frozen` after the transaction.
 */
export async function takePoint(
  client: QmpClient,
  disks: readonly TransactionDisk[],
  { freeze: guard, pause }: Guards,
  options: TakeOptions,
): Promise<Instant> {
  const frozen = guard ? await freeze(guard, options) : null;
  const at = options.now().toISOString();
  let outcome: { readonly error: unknown } | null = null;
  // What comes of it, finish() tells.
  const onAbort = (): void => void guard?.thaw().catch(() => undefined);
  if (frozen) options.signal.addEventListener('abort', onAbort, { once: true });
  let pausedMs: number | null = null;
  let transactionMs = 0;
  try {
    const begin = async (): Promise<void> => {
      transactionMs = await beginPoint(client, disks, options);
    };
    if (pause) pausedMs = await pause.whileStopped(client, begin);
    else await begin();
  } catch (error) {
    outcome = { error };
  } finally {
    options.signal.removeEventListener('abort', onAbort);
  }
  const thawed = guard && frozen ? await guard.finish() : null;
  if (outcome) throw await knownOutcome(outcome.error);
  options.signal.throwIfAborted();

  const consistent = frozen && frozen.fileSystems > 0 && thawed?.statusAfterTransaction === 'frozen';
  if (frozen && !consistent) {
    const why = frozen.fileSystems === 0 ? 'the agent froze no file system' : 'the guest did not stay frozen';
    if (options.requireFreeze) {
      throw new QmpBackupError('failed', `--quiesce=require: ${why}`, { hint: 'Nothing was kept of this run.' });
    }
    options.warn(`${why}: the point is marked crash`);
  }
  return {
    at,
    transactionMs,
    pausedMs,
    consistency: consistent ? 'filesystem' : 'crash',
    freeze:
      frozen && thawed
        ? { fileSystems: frozen.fileSystems, frozenMs: thawed.freezeAnswerToThawRequestMs ?? null }
        : null,
  };
}

/** Returns the milliseconds of the transaction. Filters that are in place before the transaction are what makes the instant of a fleeced disk. */
async function beginPoint(
  client: QmpClient,
  disks: readonly TransactionDisk[],
  options: TransactionOptions,
): Promise<number> {
  const fleeced = fleecedOf(disks);
  if (fleeced.length > 0) await insertFilters(client, fleeced);
  const begun = performance.now();
  await startPoint(client, disks, options);
  return performance.now() - begun;
}

async function freeze(guard: FreezeGuard, options: TakeOptions): Promise<{ readonly fileSystems: number } | null> {
  try {
    return await guard.freeze();
  } catch (error) {
    if (!(error instanceof QmpBackupError)) throw error;
    // A guest that may still be frozen is no case for going on.
    if (error.code === 'interrupted' || error instanceof GuestNotThawed) throw error;
    if (options.requireFreeze) {
      throw new QmpBackupError('failed', `--quiesce=require: the guest was not frozen: ${messageOf(error)}`, {
        cause: error,
        hint: 'Nothing was kept of this run.',
      });
    }
    options.warn(`the guest was not frozen: ${messageOf(error)}: the point is marked crash`);
    return null;
  }
}

/** How long to wait for the reply of a transaction that missed its deadline, in milliseconds. */
const LATE_REPLY_MS = 60_000;

/**
 * A transaction that missed its deadline has an unknown outcome. The guest is thawed by now; the reply is awaited, so
 * that whatever was started can be cancelled.
 */
async function knownOutcome(error: unknown): Promise<unknown> {
  if (!(error instanceof QmpTimeout)) return error;
  const limit = AbortSignal.timeout(LATE_REPLY_MS);
  await Promise.race([
    error.lateReply.then(
      () => undefined,
      () => undefined,
    ),
    new Promise((resolve) => limit.addEventListener('abort', resolve)),
  ]);
  return error;
}

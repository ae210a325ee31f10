import type { FreezeGuard } from '../../guards/freeze-guard.js';
import type { PauseGuard } from '../../guards/pause-guard.js';
import { type FilterOptions, insertFilters } from '../../qemu/fleece.js';
import { fleecedOf, startPoint, type TransactionDisk, type TransactionOptions } from '../../qemu/transaction.js';
import type { QmpClient } from '../../qmp/client.js';
import { QmpTimeout } from '../../qmp/errors.js';
import { type InstantOptions, takeInstant } from '../attempt/instant.js';
import type { Instant } from '../backup-run.js';

export type TakeOptions = TransactionOptions & FilterOptions & Omit<InstantOptions, 'settle'>;

export interface Guards {
  readonly freeze: FreezeGuard | null;
  /** For fleecing of a VM that runs. */
  readonly pause: PauseGuard | null;
}

/**
 * [freeze] [stop, filters] transaction [continue] [thaw]. Only the transaction and the agent's status lie between freeze and thaw.
 */
export async function takePoint(
  client: QmpClient,
  disks: readonly TransactionDisk[],
  { freeze, pause }: Guards,
  options: TakeOptions,
): Promise<Instant> {
  let pausedMs: number | null = null;
  let transactionMs = 0;
  const begin = async (): Promise<void> => {
    transactionMs = await beginPoint(client, disks, options);
  };
  const {
    at,
    consistency,
    freeze: frozen,
  } = await takeInstant(freeze, { ...options, settle: knownOutcome }, async () => {
    if (pause) pausedMs = await pause.whileStopped(client, begin);
    else await begin();
  });
  return { at, transactionMs, pausedMs, consistency, freeze: frozen };
}

/** Returns the milliseconds of the transaction. Filters that are in place before the transaction are what makes the instant of a fleeced disk. */
async function beginPoint(
  client: QmpClient,
  disks: readonly TransactionDisk[],
  options: TransactionOptions & FilterOptions,
): Promise<number> {
  const fleeced = fleecedOf(disks);
  if (fleeced.length > 0) await insertFilters(client, fleeced, options);
  const begun = performance.now();
  await startPoint(client, disks, options);
  return performance.now() - begun;
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

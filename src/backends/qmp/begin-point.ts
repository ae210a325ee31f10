import type { PauseGuard } from '../../guards/pause-guard.js';
import { type FilterOptions, insertFilters } from '../../qemu/fleece.js';
import { fleecedOf, startPoint, type TransactionDisk, type TransactionOptions } from '../../qemu/transaction.js';
import type { QmpClient } from '../../qmp/client.js';
import { QmpTimeout } from '../../qmp/errors.js';
import type { Begun } from '../copy-method.js';

/**
 * [stop, filters] transaction [continue]. The filters are what makes the instant of a fleeced disk, whose job begins when the
 * guest goes on. `pause`: for fleecing of a VM that runs.
 */
export async function beginPoint(
  client: QmpClient,
  disks: readonly TransactionDisk[],
  pause: PauseGuard | null,
  options: TransactionOptions & FilterOptions,
): Promise<Begun> {
  const fleeced = fleecedOf(disks);
  let transactionMs = 0;
  const begin = async (): Promise<void> => {
    if (fleeced.length > 0) await insertFilters(client, fleeced, options);
    const begun = performance.now();
    await startPoint(client, disks, options);
    transactionMs = performance.now() - begun;
  };
  if (pause) return { pausedMs: await pause.whileStopped(client, begin), transactionMs };
  await begin();
  return { pausedMs: null, transactionMs };
}

/** How long to wait for the reply of a transaction that missed its deadline, in milliseconds. */
const LATE_REPLY_MS = 60_000;

/**
 * A transaction that missed its deadline has an unknown outcome: waits for the reply, so that whatever was started can be
 * cancelled.
 */
export async function knownOutcome(error: unknown): Promise<void> {
  if (!(error instanceof QmpTimeout)) return;
  const limit = AbortSignal.timeout(LATE_REPLY_MS);
  await Promise.race([
    error.lateReply.then(
      () => undefined,
      () => undefined,
    ),
    new Promise((resolve) => limit.addEventListener('abort', resolve)),
  ]);
}

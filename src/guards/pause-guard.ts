import { messageOf, QmpBackupError } from '../errors.js';
import type { QmpClient } from '../qmp/client.js';
import { run } from '../qmp/commands.js';
import { describeEndpoint, type Endpoint } from '../qmp/endpoint.js';
import { DetachedGuard } from './detached.js';
import type { PauseGuardTask, ToPauseGuard } from './pause-guard-messages.js';

const GUARD_PROGRAM = new URL('./pause-guard-main.js', import.meta.url);

/**
 * Stops a running VM for the milliseconds in which several commands must be one instant, and sees to it that it goes on:
 * a process of its own continues the VM when this one dies or hangs in between. Always call `release()` in the end.
 */
export class PauseGuard {
  readonly #monitor: Endpoint;
  /** One that is gone is no reason to fail: it matters only if this process dies too. */
  readonly #process: DetachedGuard<ToPauseGuard>;

  private constructor(task: PauseGuardTask) {
    this.#monitor = task.monitor;
    this.#process = new DetachedGuard({ program: GUARD_PROGRAM, task, on: {} });
  }

  /** A guard that listens. Throws `failed` when its process does not start. */
  static async start(task: PauseGuardTask): Promise<PauseGuard> {
    const guard = new PauseGuard(task);
    await guard.#process.ready('the pause');
    return guard;
  }

  /**
   * Runs `body` while the VM stands still, and continues it, whatever comes of `body`. Returns the milliseconds from
   * the request to stop until the VM was running again; null for a VM that somebody stopped since the run began, which
   * is left so. Throws what `body` throws; `failed` with what to do by hand when the VM could not be continued.
   */
  async whileStopped(client: QmpClient, body: () => Promise<void>): Promise<number | null> {
    const { running } = await run(client, 'query-status');
    if (!running) {
      await body();
      return null;
    }
    this.#process.send({ type: 'hold' });
    const begun = performance.now();
    const outcome = await stopAnd(client, body).then(
      () => undefined,
      (error: unknown) => ({ error }),
    );
    try {
      await run(client, 'cont');
    } catch (error) {
      throw new QmpBackupError('failed', `the VM was stopped and could not be continued: ${messageOf(error)}`, {
        cause: outcome?.error ?? error,
        hint: `Continue it by hand: the QMP command {"execute": "cont"} on ${describeEndpoint(this.#monitor)}, or "cont" in its human monitor.`,
      });
    }
    const pausedMs = performance.now() - begun;
    this.#process.send({ type: 'done' });
    if (outcome) throw outcome.error;
    return pausedMs;
  }

  /** Ends the guard; if the VM was stopped and not continued, the guard goes on trying before it ends. */
  release(): void {
    this.#process.release();
    this.#process.leave();
  }
}

async function stopAnd(client: QmpClient, body: () => Promise<void>): Promise<void> {
  await run(client, 'stop', {}, { timeoutMs: STOP_MS });
  await body();
}

/** Stopping flushes every disk. */
const STOP_MS = 10_000;

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { messageOf, QmpBackupError } from '../errors.js';
import type { QmpClient } from '../qmp/client.js';
import { run } from '../qmp/commands.js';
import { describeEndpoint, type Endpoint } from '../qmp/endpoint.js';
import { guardEnvironment } from './environment.js';

/**
 * Stops a running VM for the milliseconds in which several commands must be one instant, and sees to it that it goes on:
 * a process of its own continues the VM when this one dies or hangs in between. Always call `release()` in the end.
 */
export interface PauseGuardTask {
  readonly monitor: Endpoint;
  /** Milliseconds that the VM may stand still before a parent that hangs is ended. */
  readonly limitMs: number;
}

const GUARD_PROGRAM = fileURLToPath(new URL('./pause-guard-main.js', import.meta.url));
const START_MS = 10_000;

export class PauseGuard {
  readonly #child: ChildProcess;
  readonly #monitor: Endpoint;

  private constructor(task: PauseGuardTask) {
    this.#monitor = task.monitor;
    const args = [GUARD_PROGRAM, JSON.stringify(task)];
    const env = guardEnvironment(process.env);
    this.#child = spawn(process.execPath, args, { env, detached: true, stdio: ['pipe', 'pipe', 'ignore'] });
    // A guard that is gone is no reason to fail: it matters only if this process dies too.
    this.#child.stdin?.on('error', () => undefined);
    this.#child.on('error', () => undefined);
  }

  /** A guard that listens. Throws `failed` when its process does not start. */
  static async start(task: PauseGuardTask): Promise<PauseGuard> {
    const guard = new PauseGuard(task);
    try {
      await once(guard.#child.stdout ?? guard.#child, 'data', { signal: AbortSignal.timeout(START_MS) });
      return guard;
    } catch (error) {
      guard.release();
      throw new QmpBackupError('failed', `the process that guards the pause did not start: ${messageOf(error)}`, {
        cause: error,
      });
    }
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
    this.#say('hold');
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
    this.#say('done');
    if (outcome) throw outcome.error;
    return pausedMs;
  }

  /** Ends the guard; if the VM was stopped and not continued, the guard goes on trying before it ends. */
  release(): void {
    this.#child.stdin?.end();
    this.#child.stdout?.destroy();
    this.#child.unref();
  }

  #say(word: 'hold' | 'done'): void {
    if (this.#child.stdin?.writable) this.#child.stdin.write(`${word}\n`);
  }
}

async function stopAnd(client: QmpClient, body: () => Promise<void>): Promise<void> {
  await run(client, 'stop', {}, { timeoutMs: STOP_MS });
  await body();
}

/** Stopping flushes every disk. */
const STOP_MS = 10_000;

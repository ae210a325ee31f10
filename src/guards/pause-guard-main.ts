/**
 * The pause guard's process: once told `hold`, a VM that stands still goes on when this process's owner dies, or when
 * the limit is over before the owner has said `done`. Imports little: it has to start fast.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf } from '../errors.js';
import { QmpClient } from '../qmp/client.js';
import { run } from '../qmp/commands.js';
import { beginGuard, hearOwner, tellOwner } from './own-side.js';
import { pauseTask, type ToPauseGuard } from './pause-guard-messages.js';

const { monitor, limitMs } = beginGuard(pauseTask);
const owner = process.ppid;
/** How long to go on trying to reach the monitor, in ms. */
const PATIENCE_MS = 60_000;

let holding = false;
let limit: NodeJS.Timeout | undefined;
hearOwner<ToPauseGuard>({ hold: () => hold(true), done: () => hold(false) }, () => {
  clearTimeout(limit);
  if (holding) void goOn();
});
tellOwner({ type: 'ready' });

function hold(on: boolean): void {
  clearTimeout(limit);
  holding = on;
  if (on) limit = setTimeout(endOwner, limitMs);
}

/** An owner that is stopped or stuck holds the monitor, which serves one client: its end frees it. */
function endOwner(): void {
  if (process.ppid === owner) process.kill(owner, 'SIGKILL');
}

async function goOn(): Promise<void> {
  const deadline = performance.now() + PATIENCE_MS;
  for (;;) {
    try {
      const client = await QmpClient.connect(monitor, { connectTimeoutMs: 1_000, greetingTimeoutMs: 1_000 });
      const { status } = await run(client, 'query-status', {}, { timeoutMs: 5_000 });
      if (status === 'paused') await run(client, 'cont', {}, { timeoutMs: 5_000 });
      await client.close();
      return;
    } catch (error) {
      if (performance.now() > deadline) {
        process.exitCode = 1;
        process.stderr.write(`the VM could not be continued: ${messageOf(error)}\n`);
        return;
      }
    }
    await sleep(20);
  }
}

/**
 * The pause guard's process: once told `hold`, a VM that stands still goes on when this process's parent dies, or when
 * the limit is over before the parent has said `done`. It has a session of its own, so that what ends the parent does
 * not end it, and imports little: it has to start fast.
 */
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf } from '../errors.js';
import { QmpClient } from '../qmp/client.js';
import { run } from '../qmp/commands.js';
import type { PauseGuardTask } from './pause-guard.js';

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => undefined);
// Nobody may be there to read.
process.stdout.on('error', () => undefined);
process.stderr.on('error', () => undefined);

const { monitor, limitMs } = JSON.parse(process.argv[2] ?? '') as PauseGuardTask;
const parent = process.ppid;
/** How long to go on trying to reach the monitor, in ms. */
const PATIENCE_MS = 60_000;

let holding = false;
let limit: NodeJS.Timeout | undefined;
const lines = createInterface({ input: process.stdin });
lines.on('line', (line) => {
  clearTimeout(limit);
  holding = line === 'hold';
  if (holding) limit = setTimeout(endParent, limitMs);
});
lines.on('close', () => {
  clearTimeout(limit);
  if (holding) void goOn();
});
process.stdin.on('error', () => lines.close());
process.stdout.write('ready\n');

/** A parent that is stopped or stuck holds the monitor, which serves one client: its end frees it. */
function endParent(): void {
  if (process.ppid === parent) process.kill(parent, 'SIGKILL');
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

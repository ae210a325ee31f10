/** The test's own QMP monitor of a VM: the second one, since a monitor serves one client and the first is the tool's. */
import { setTimeout as sleep } from 'node:timers/promises';
import { QmpClient } from '../../../src/qmp/client.js';
import { run } from '../../../src/qmp/commands.js';
import { QmpUnreachable } from '../../../src/qmp/errors.js';
import { patient } from '../patience.js';

const START_MS = patient(30_000);
const COMMAND_MS = patient(120_000);

/** Connects as soon as QEMU listens. `failure` says why it never will, once that is known. */
export async function connectMonitor(path: string, failure: () => Error | undefined): Promise<QmpClient> {
  const until = Date.now() + START_MS;
  for (;;) {
    try {
      const options = { greetingTimeoutMs: START_MS, commandTimeoutMs: COMMAND_MS };
      return await QmpClient.connect({ kind: 'unix', path }, options);
    } catch (error) {
      const reason = failure();
      if (reason) throw reason;
      if (!(error instanceof QmpUnreachable) || Date.now() > until) throw error;
      await sleep(20);
    }
  }
}

/** A command of the human monitor. Its errors are in the text that it answers. */
export async function hmp(control: QmpClient, commandLine: string): Promise<string> {
  return run(control, 'human-monitor-command', { 'command-line': commandLine }, { timeoutMs: COMMAND_MS });
}

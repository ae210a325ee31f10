import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf, QmpBackupError } from '../../errors.js';
import { GuestAgent } from '../../guest-agent/client.js';
import { GuestAgentError } from '../../guest-agent/errors.js';
import { startProgram } from '../../host/program.js';
import { within } from '../../host/within.js';
import { machineOf, socketsIn } from '../../machine/machine-of-point.js';
import { reachMachine } from '../../machine/reach-machine.js';
import type { QmpClient } from '../../qmp/client.js';
import { run } from '../../qmp/commands.js';
import { QmpCommandError } from '../../qmp/errors.js';
import { WITH_PARENT } from '../../storage-daemon/daemon.js';
import type { Picture, PreparedMachine, TrialMachine, TrialParts } from './trial-machine.js';

/** Milliseconds between the loss of a monitor and the end of its QEMU. */
const END_MS = 2_000;
const POLL_MS = 200;

/** States in which a guest will not answer any more. */
const OVER = ['guest-panicked', 'internal-error', 'io-error', 'shutdown', 'watchdog'];

/** The machine of a point, as a QEMU of ours. */
export async function prepareQemu(parts: TrialParts): Promise<PreparedMachine> {
  const { opened, folder, overlays, bytes, serialLog, trial } = parts;
  const { agent, more } = trial;
  const address = await bytes.serveNbd();
  const command = machineOf(opened, { folder, overlays, address, serialLog, network: 'none', agent, more });
  return { hasAgent: command.hasAgent, start: () => startQemu(command, parts) };
}

async function startQemu(
  { program, args }: { readonly program: string; readonly args: readonly string[] },
  { folder, run: { signal }, unwind }: TrialParts,
): Promise<TrialMachine> {
  const sockets = socketsIn(folder);
  const child = ['sh', '-c', WITH_PARENT, `${process.pid}`, program, ...args];
  const qemu = await startProgram('setpriv', ['--pdeathsig', 'KILL', ...child], {
    ownSession: true,
    onStdout: () => undefined,
  });
  unwind.defer(() => qemu.kill());
  const ended = qemu.ended.then(({ stderr, failure }) => failure?.message ?? stderr);
  const monitor = await reachMachine(sockets.monitor, ended, signal);
  unwind.defer(() => monitor.close());
  const died = ended.then((text) => `QEMU has ended${text.trim() === '' ? '' : `: ${text.trim()}`}`);
  const over = async (): Promise<string | null> => {
    try {
      const { status } = await run(monitor, 'query-status');
      return OVER.includes(status) ? `its guest is no longer at work: QEMU calls it ${status}` : null;
    } catch (error) {
      signal.throwIfAborted();
      // The monitor is lost where it has ended, which says why.
      if (!(error instanceof QmpBackupError)) throw error;
      return (await within(END_MS, died)) ?? messageOf(error);
    }
  };
  const askAgent = (ms: number): Promise<true | string> => askAgentAt(sockets.agent, ms, signal);
  return { died, over, askAgent, takePicture: () => takePicture(monitor, folder) };
}

async function askAgentAt(path: string, timeoutMs: number, signal: AbortSignal): Promise<true | string> {
  try {
    const agent = await GuestAgent.connect({ kind: 'unix', path }, { timeoutMs, signal });
    agent.close();
    return true;
  } catch (error) {
    signal.throwIfAborted();
    if (!(error instanceof GuestAgentError) && !(error instanceof QmpBackupError)) throw error;
    if (error instanceof GuestAgentError && error.kind === 'silent') return 'its guest agent did not answer';
    // It was refused at once, as it may be the next time.
    await sleep(Math.min(timeoutMs, POLL_MS), undefined, { signal }).catch(() => signal.throwIfAborted());
    return `its guest agent did not answer (${messageOf(error)})`;
  }
}

async function takePicture(monitor: QmpClient, folder: string): Promise<Picture> {
  for (const format of ['png', 'ppm'] as const) {
    const path = join(folder, `screen.${format}`);
    try {
      // Versions before 7.1 know no format but ppm.
      await run(monitor, 'screendump', { filename: path, ...(format === 'png' && { format }) });
      return { path };
    } catch (error) {
      if (!(error instanceof QmpBackupError)) throw error;
      const isUnknown = error instanceof QmpCommandError && /format|png/i.test(error.desc);
      if (!isUnknown || format === 'ppm') return { why: `there is no picture of its screen: ${messageOf(error)}` };
    }
  }
  return { why: 'there is no picture of its screen' };
}

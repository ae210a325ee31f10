import { QmpBackupError } from '../errors.js';
import { within } from '../host/within.js';
import { QmpClient } from '../qmp/client.js';
import { QmpConnectionLost, QmpNotGreeted, QmpUnreachable } from '../qmp/errors.js';

const START_MS = 60_000;
const POLL_MS = 20;

/**
 * The monitor of a machine that has just been started.
 *
 * @param ended settles with what it has said, when it has ended
 * @throws QmpBackupError `failed` in QEMU's words; the signal's reason
 */
export async function reachMachine(monitor: string, ended: Promise<string>, signal: AbortSignal): Promise<QmpClient> {
  const until = performance.now() + START_MS;
  for (;;) {
    try {
      return await QmpClient.connect({ kind: 'unix', path: monitor }, { signal });
    } catch (error) {
      signal.throwIfAborted();
      // It may listen before it has found its devices wanting.
      if (!(error instanceof QmpUnreachable) && !(error instanceof QmpConnectionLost)) throw error;
      const words = await within(POLL_MS, ended);
      if (words !== undefined) throw notStarted(words, error);
      // Somebody else may hold the monitor, which the error says.
      if (performance.now() > until && error instanceof QmpNotGreeted) throw error;
      if (performance.now() > until) throw notStarted(`its monitor did not answer for ${START_MS / 1000} s`, error);
    }
  }
}

function notStarted(words: string, cause: unknown): QmpBackupError {
  const said = words
    .replace(/^qemu-system-[\w]+: /gm, '')
    .trim()
    .replace(/\n+/g, '; ');
  return new QmpBackupError('failed', `QEMU did not start: ${said === '' ? 'it said nothing' : said}`, {
    cause,
    hint: hintFor(said),
  });
}

function hintFor(said: string): string {
  // The words of the shell that was to become QEMU; a device or a property may be "not found", too.
  if (/exec: qemu-system[\w-]*: not found/.test(said)) return 'Install it: apt install qemu-system';
  if (/requires KVM|kvm/i.test(said)) return 'Without KVM it takes: -- -accel tcg -cpu max';
  return 'What is given after -- comes last on its command line, which is in the script start-vm.sh.';
}

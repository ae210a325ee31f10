import type { VmState } from '../../domain/disk.js';
import { messageOf, QmpBackupError } from '../../errors.js';
import type { FreezeGuard } from '../../guest-agent/freeze-guard.js';
import type { PauseGuard } from '../../qemu/pause-guard.js';
import type { BackupRun } from './backup-run.js';
import type { Guards } from '../by-monitor/take-point.js';
import type { QmpRun } from '../by-monitor/qmp-run.js';

/**
 * The processes that see to it that the guest thaws and the VM goes on, whatever becomes of this one: ready before the
 * first change.
 */
export async function startGuards(run: QmpRun, vm: VmState, fleece: boolean): Promise<Guards> {
  const freeze = await startFreezeGuard(run, vm);
  try {
    return { freeze, pause: fleece && vm.running ? await startPauseGuard(run) : null };
  } catch (error) {
    await freeze?.release();
    throw error;
  }
}

/** Also frees the agent's socket, which serves one client. Throws GuestNotThawed. */
export async function releaseGuards({ freeze, pause }: Guards): Promise<void> {
  pause?.release();
  await freeze?.release();
}

async function startPauseGuard({ session, options }: QmpRun): Promise<PauseGuard> {
  const { PauseGuard } = await import('../../qemu/pause-guard.js');
  return PauseGuard.start({ monitor: session.endpoint, limitMs: options.freezeLimitMs + PAUSE_MARGIN_MS });
}

/** Milliseconds beyond the freeze limit after which a run that has stopped the VM counts as stuck, and is ended. */
const PAUSE_MARGIN_MS = 5_000;

/** The guard for the freeze, ready and connected; null where nothing is frozen. */
async function startFreezeGuard(run: QmpRun, vm: VmState): Promise<FreezeGuard | null> {
  const { quiesce, agent, freezeTimeoutMs, freezeLimitMs } = run.options;
  if (quiesce === 'no') return null;
  if (!vm.running) return unfrozen(run, `the VM is not running (${vm.status})`);
  if (!agent) return unfrozen(run, 'no agent socket was given (--agent-socket)');
  try {
    // Loaded where a guest is frozen: start-up time, docs/decisions/0001.
    const { FreezeGuard } = await import('../../guest-agent/freeze-guard.js');
    return await FreezeGuard.start({ agent, freezeTimeoutMs, freezeLimitMs, signal: run.signal });
  } catch (error) {
    if (!(error instanceof QmpBackupError)) throw error;
    return unfrozen(run, messageOf(error), error);
  }
}

/** Throws with `--quiesce=require`; else the point is made without a freeze, and a warning says so. */
export function unfrozen(run: BackupRun, why: string, cause?: unknown): null {
  run.signal.throwIfAborted();
  if (run.options.quiesce === 'require') {
    throw new QmpBackupError('failed', `--quiesce=require: the guest cannot be frozen: ${why}`, {
      cause,
      hint: 'Nothing was changed. --quiesce alone would go on and mark the point crash.',
    });
  }
  run.warn(`the guest cannot be frozen: ${why}; the point is marked crash`);
  return null;
}

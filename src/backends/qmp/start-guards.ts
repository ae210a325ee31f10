import type { VmState } from '../../core/disk.js';
import { messageOf, QmpBackupError } from '../../errors.js';
import { FreezeGuard } from '../../guards/freeze-guard.js';
import { PauseGuard } from '../../guards/pause-guard.js';
import type { BackupRun } from '../backup-run.js';
import { unfrozen } from '../methods/unfrozen.js';
import type { QmpRun } from './run.js';

export interface Guards {
  readonly freeze: FreezeGuard | null;
  /** For fleecing of a VM that runs. */
  readonly pause: PauseGuard | null;
}

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

/** Whether the guest could be frozen: as far as the agent's first answer, and not frozen. Says and throws what a run would. */
export async function checkVmFreeze(run: BackupRun, vm: VmState): Promise<void> {
  const guard = await startFreezeGuard(run, vm);
  await guard?.release();
}

async function startPauseGuard({ session, options }: QmpRun): Promise<PauseGuard> {
  return PauseGuard.start({ monitor: session.endpoint, limitMs: options.freezeLimitMs + PAUSE_MARGIN_MS });
}

/** Milliseconds beyond the freeze limit after which a run that has stopped the VM counts as stuck, and is ended. */
const PAUSE_MARGIN_MS = 5_000;

/** The guard for the freeze, ready and connected; null where nothing is frozen. */
async function startFreezeGuard(run: BackupRun, vm: VmState): Promise<FreezeGuard | null> {
  const { quiesce, agent, freezeTimeoutMs, freezeLimitMs } = run.options;
  if (quiesce === 'no') return null;
  if (!vm.running) return unfrozen(run, `the VM is not running (${vm.status})`);
  if (!agent) return unfrozen(run, 'no agent socket was given (--agent-socket)');
  try {
    return await FreezeGuard.start({ agent, freezeTimeoutMs, freezeLimitMs, signal: run.signal });
  } catch (error) {
    if (!(error instanceof QmpBackupError)) throw error;
    return unfrozen(run, messageOf(error), error);
  }
}

import type { VmState } from '../../core/disk.js';
import type { Consistency } from '../../core/point.js';
import { warning } from '../../core/warning.js';
import { messageOf, QmpBackupError } from '../../errors.js';
import { DomainFreezeGuard } from '../../guards/domain-freeze-guard.js';
import { askAgent } from '../../libvirt/connection.js';
import { VirshError, VirshTimeout } from '../../libvirt/errors.js';
import { hasHardlyRun } from '../../libvirt/lifecycle.js';
import { NOTHING_KEPT } from '../copy-method.js';
import { unfrozen } from '../methods/unfrozen.js';
import type { DomainRun } from './domain-method.js';

/** The guard for the freeze, ready; null where nothing is frozen. */
export async function startFreezeGuard(run: DomainRun, vm: VmState): Promise<DomainFreezeGuard | null> {
  const { freezeTimeoutMs, freezeLimitMs } = run.options;
  const { uuid, connect, domain } = run.session;
  if (!mayFreeze(run, vm)) return null;
  const limits = { freezeTimeoutMs, freezeLimitMs, thawTimeoutMs: THAW_MS };
  return DomainFreezeGuard.start({ connect, uuid, name: domain.name, ...limits });
}

const THAW_MS = 60_000;

/** Whether a freeze is asked for and there is a guest to freeze. Where there is none, that is said, or fails the run. */
function mayFreeze(run: DomainRun, vm: VmState): boolean {
  // What we have started paused has nothing to freeze: it is as it was when it was off.
  if (run.options.quiesce === 'no' || run.session.startedPaused) return false;
  const why = whyNoGuest(run, vm);
  if (why !== null) unfrozen(run, why);
  return why === null;
}

function whyNoGuest({ session }: DomainRun, vm: VmState): string | null {
  if (!vm.running) return `the domain is not running (${vm.status})`;
  return session.domain.agent === 'absent' ? 'the domain has no channel for a guest agent' : null;
}

/** Whether the guest could be frozen, as far as its agent answers. Says and throws what a run would. */
export async function checkDomainFreeze(run: DomainRun, vm: VmState): Promise<void> {
  if (!mayFreeze(run, vm)) return;
  const { virsh, uuid } = run.session;
  try {
    const answer = await askAgent(virsh, uuid, { timeoutMs: run.options.freezeTimeoutMs });
    if (answer === 'frozen') unfrozen(run, 'it is frozen already');
  } catch (error) {
    if (!(error instanceof VirshError || error instanceof VirshTimeout)) throw error;
    unfrozen(run, messageOf(error), error);
  }
}

/** Asked after the instant: a guest that has not run by then had changed nothing before. */
export async function consistencyOfStarted({ session, options, warn }: DomainRun): Promise<Consistency> {
  if (await hasHardlyRun(session.virsh, session.uuid)) return 'offline';
  const why = 'somebody let the domain go on, which was started paused for this backup';
  if (options.quiesce === 'require') throw new QmpBackupError('failed', `--quiesce=require: ${why}`, NOTHING_KEPT);
  warn(warning('not-frozen', `${why}: the point is marked crash`));
  return 'crash';
}

/**
 * The process of a domain's freeze guard. Once it has begun to freeze it thaws by itself when its owner is gone, or when
 * the limit is over.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf } from '../errors.js';
import { freeze, pingAgent, thaw } from '../libvirt/backup.js';
import { DomainNotFound, thawDomainByHand, VirshError, VirshTimeout } from '../libvirt/errors.js';
import { endOf } from '../libvirt/lifecycle.js';
import { createVirsh } from '../libvirt/virsh.js';
import {
  domainFreezeTask,
  type DomainThawCause,
  type FromDomainFreezeGuard,
  type ToDomainFreezeGuard,
} from './domain-freeze-guard-messages.js';
import { beginGuard, hearOwner, tellOwner } from './own-side.js';

const task = beginGuard(domainFreezeTask);
const virsh = createVirsh(task.connect ?? undefined);
/** Milliseconds between two attempts to thaw, at first and once nobody waits for it, and for each. */
const PAUSE_MS = 100;
const LONG_PAUSE_MS = 2_000;
const ATTEMPT_MS = 15_000;
/** How long it goes on alone, after it has said that it cannot thaw: a freeze of a slow disk may come to pass only then. */
const LONGEST_MS = 3_600_000;

let freezing: Promise<boolean> | undefined;
let frozenAt: number | undefined;
let thawing: Promise<void> | undefined;
let limit: NodeJS.Timeout | undefined;

const say: (message: FromDomainFreezeGuard) => void = tellOwner;

hearOwner<ToDomainFreezeGuard>(
  {
    freeze: () => void (freezing ??= freezeDomain()),
    thaw: () => void thawDomain('asked'),
  },
  () => void thawDomain('alone'),
);
tellOwner({ type: 'ready' });

const unreachable = whyUnreachable();

/**
 * Why the agent does not answer, in words. Asked before the freeze, for an agent that hangs lets libvirt hang too, and what
 * is said of one that is gone is the same before and after a freeze was sent.
 */
async function whyUnreachable(): Promise<string | null> {
  try {
    await pingAgent(virsh, task.uuid, { timeoutMs: task.freezeTimeoutMs });
    return null;
  } catch (error) {
    if (error instanceof VirshTimeout) return messageOf(error);
    const silent = error instanceof VirshError && ['no-agent', 'not-running'].includes(error.reason);
    return silent ? error.words : null;
  }
}

/** Whether there is something to thaw. */
async function freezeDomain(): Promise<boolean> {
  const asked = await unreachable;
  if (asked) {
    say({ type: 'not-frozen', why: `libvirt could not freeze it: ${asked}` });
    return false;
  }
  try {
    const fileSystems = await freeze(virsh, task.uuid, { timeoutMs: task.freezeTimeoutMs });
    frozenAt = performance.now();
    limit = setTimeout(() => void thawDomain('limit'), task.freezeLimitMs);
    say({ type: 'frozen', fileSystems });
    return true;
  } catch (error) {
    const refused = error instanceof VirshError && ['already-frozen', 'not-running'].includes(error.reason);
    const words = error instanceof VirshError ? error.words : messageOf(error);
    // A freeze without an answer may have come to pass, or may still.
    if (!refused && !(await thawUntilDone()).done) return false;
    const frozen = error instanceof VirshError && error.reason === 'already-frozen';
    const advice = frozen ? `; if no other program freezes it now, thaw it: ${thawDomainByHand(task)}` : '';
    say({ type: 'not-frozen', why: `libvirt could not freeze it: ${words}${advice}` });
    return false;
  }
}

/** The first cause counts: what is frozen is thawed once. */
function thawDomain(cause: DomainThawCause): Promise<void> {
  thawing ??= (async () => {
    clearTimeout(limit);
    if (!(await freezing)) return;
    const requestedAt = performance.now();
    const { done, fileSystems } = await thawUntilDone();
    if (done) say({ type: 'thawed', cause, fileSystems, frozenMs: requestedAt - (frozenAt ?? requestedAt) });
  })();
  return thawing;
}

async function thawUntilDone(): Promise<{ readonly done: boolean; readonly fileSystems: number }> {
  const begun = performance.now();
  let said = false;
  for (;;) {
    try {
      return { done: true, fileSystems: await thaw(virsh, task.uuid, { timeoutMs: ATTEMPT_MS }) };
    } catch (error) {
      if (await hasEnded(error)) return { done: true, fileSystems: 0 };
      const waited = performance.now() - begun;
      if (!said && waited > task.thawTimeoutMs) {
        say({ type: 'not-thawed', why: messageOf(error) });
        said = true;
      }
      if (waited > LONGEST_MS) return { done: false, fileSystems: 0 };
    }
    await sleep(said ? LONG_PAUSE_MS : PAUSE_MS);
  }
}

/** Without QEMU there is no guest that could be frozen; one that is paused cannot be thawed yet. */
async function hasEnded(error: unknown): Promise<boolean> {
  if (error instanceof DomainNotFound) return true;
  if (!(error instanceof VirshError) || error.reason !== 'not-running') return false;
  try {
    return (await endOf(virsh, task.uuid)) !== null;
  } catch (failure) {
    return failure instanceof DomainNotFound;
  }
}

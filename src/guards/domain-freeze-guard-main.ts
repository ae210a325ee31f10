/**
 * The process of a domain's freeze guard: in a session of its own, deaf to the signals that end a whole group. Once it
 * has begun to freeze it thaws by itself at the end of its input, or when the limit is over.
 */
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf } from '../errors.js';
import { freeze, pingAgent, thaw } from '../libvirt/backup.js';
import { DomainNotFound, thawDomainByHand, VirshError, VirshTimeout } from '../libvirt/errors.js';
import { endOf } from '../libvirt/lifecycle.js';
import { createVirsh } from '../libvirt/virsh.js';
import type { DomainThawCause, FreezeTask, FromFreezeGuard } from './domain-freeze-guard.js';

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => undefined);
// Nobody may be there to read.
process.stdout.on('error', () => undefined);
process.stderr.on('error', () => undefined);

const task = JSON.parse(process.argv[2] ?? '') as FreezeTask;
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

const lines = createInterface({ input: process.stdin });
lines.on('line', (line) => {
  if (line === 'freeze') freezing ??= freezeDomain();
  if (line === 'thaw') void thawDomain('asked');
});
lines.on('close', () => void thawDomain('alone'));
process.stdin.on('error', () => lines.close());
say({ kind: 'ready' });

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
    say({ kind: 'not-frozen', why: `libvirt could not freeze it: ${asked}` });
    return false;
  }
  try {
    const fileSystems = await freeze(virsh, task.uuid, { timeoutMs: task.freezeTimeoutMs });
    frozenAt = performance.now();
    limit = setTimeout(() => void thawDomain('limit'), task.freezeLimitMs);
    say({ kind: 'frozen', fileSystems });
    return true;
  } catch (error) {
    const refused = error instanceof VirshError && ['already-frozen', 'not-running'].includes(error.reason);
    const words = error instanceof VirshError ? error.words : messageOf(error);
    // A freeze without an answer may have come to pass, or may still.
    if (!refused && !(await thawUntilDone()).done) return false;
    const frozen = error instanceof VirshError && error.reason === 'already-frozen';
    const advice = frozen ? `; if no other program freezes it now, thaw it: ${thawDomainByHand(task)}` : '';
    say({ kind: 'not-frozen', why: `libvirt could not freeze it: ${words}${advice}` });
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
    if (done) say({ kind: 'thawed', cause, fileSystems, frozenMs: requestedAt - (frozenAt ?? requestedAt) });
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
        say({ kind: 'not-thawed', why: messageOf(error) });
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

function say(line: FromFreezeGuard): void {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

/**
 * Thawing until the agent itself says that the guest is thawed: over late, odd and lost answers and a connection that
 * has to be opened anew, but for a bounded time. Used by the guard, by its parent when the guard is gone, and when a
 * later run finds that an earlier one died.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Endpoint } from '../qmp/endpoint.js';
import { type FreezeStatus, GuestAgent, type ThawStep } from './client.js';
import { GuestAgentError, GuestNotThawed } from './errors.js';

export interface ThawRequest {
  readonly endpoint: Endpoint;
  /** The connection to begin with; it is closed in the end, as is any that follows it. */
  readonly agent?: GuestAgent | undefined;
  /** Ask for the status before the first thaw. */
  readonly askBefore: boolean;
  /** A freeze was given up without an answer, so the guest may freeze after it has been seen thawed. */
  readonly freezeUnanswered: boolean;
  readonly timeoutMs: number;
}

/** Times are `performance.now()` in ms; `requestedAt` is the first request, the others belong to the one confirmed. */
export interface ThawRecord {
  readonly before: FreezeStatus | 'unknown';
  readonly requestedAt: number;
  readonly answeredAt: number;
  readonly confirmedAt: number;
}

const FIRST_ATTEMPT_MS = 2_000;
const PAUSE_MS = 50;
/** How long a guest must stay thawed after a freeze whose answer never came, in ms. */
const SETTLE_MS = 1_000;
/** How long we knock at a socket where nobody listens: QEMU is gone then, and its guest with it. In ms. */
const UNREACHABLE_MS = 3_000;

/** Throws GuestNotThawed. */
export async function thawUntilConfirmed(request: ThawRequest): Promise<ThawRecord> {
  const { endpoint, freezeUnanswered, timeoutMs } = request;
  const start = performance.now();
  let agent = request.agent;
  let first: { readonly before: FreezeStatus | 'unknown'; readonly requestedAt: number } | undefined;
  let thawedSince: number | undefined;
  let unreachableSince: number | undefined;
  let lastError: unknown;
  let attemptMs = FIRST_ATTEMPT_MS;
  let onlyAsk = false;
  try {
    for (;;) {
      const left = start + timeoutMs - performance.now();
      if (left <= 0) throw new GuestNotThawed(endpoint, lastError);
      try {
        agent ??= await GuestAgent.connect(endpoint, { timeoutMs: left });
        unreachableSince = undefined;
        const attempt = { timeoutMs: Math.min(attemptMs, left), askBefore: request.askBefore && first === undefined };
        first ??= { before: 'unknown', requestedAt: performance.now() };
        const step: ThawStep = onlyAsk ? await askOnly(agent, attempt.timeoutMs) : await agent.thawAtOnce(attempt);
        onlyAsk = false;
        if (attempt.askBefore) first = step;
        thawedSince = step.after === 'thawed' ? (thawedSince ?? step.confirmedAt) : undefined;
        const settled = !freezeUnanswered || agent.lateFreezeWasAnswered || hasSettled(thawedSince);
        if (thawedSince !== undefined && settled) {
          const { before, requestedAt } = first;
          return { before, requestedAt, answeredAt: step.answeredAt, confirmedAt: step.confirmedAt };
        }
        lastError = new Error(
          step.after === 'frozen'
            ? 'the guest agent still says frozen'
            : 'the guest agent says thawed, but has not answered the freeze, which may still come',
        );
      } catch (error) {
        if (!(error instanceof GuestAgentError)) throw error;
        lastError = error;
        thawedSince = undefined;
        // An agent that answers a thaw twice would spoil the status behind it every time.
        if (error.kind === 'garbage') onlyAsk = !onlyAsk;
        if (error.kind === 'timeout') attemptMs *= 2;
        if (error.kind === 'lost') agent = closed(agent);
        if (error.kind === 'unreachable') {
          unreachableSince ??= performance.now();
          if (performance.now() - unreachableSince > UNREACHABLE_MS) throw new GuestNotThawed(endpoint, error);
        }
      }
      await sleep(PAUSE_MS);
    }
  } finally {
    agent?.close();
  }
}

/**
 * For a guest that somebody who is gone may have left frozen. Throws GuestNotThawed, whose cause says why: no agent
 * there, no answer, or still frozen after `timeoutMs`.
 */
export async function thawNow(
  endpoint: Endpoint,
  options: { readonly timeoutMs: number },
): Promise<'was-thawed' | 'thawed'> {
  const deadline = performance.now() + options.timeoutMs;
  const left = (): number => Math.max(deadline - performance.now(), 1);
  const agent = await connectPatiently(endpoint, left);
  // An agent that will not say gets the thaw all the same.
  const status = await agent.fsfreezeStatus(left()).catch((error: unknown) => {
    if (error instanceof GuestAgentError) return 'unknown';
    throw error;
  });
  if (status === 'thawed') {
    agent.close();
    return 'was-thawed';
  }
  await thawUntilConfirmed({ endpoint, agent, askBefore: false, freezeUnanswered: false, timeoutMs: left() });
  return 'thawed';
}

/** QEMU may still have to notice that the agent's former client is gone; meanwhile it closes or turns away others. */
async function connectPatiently(endpoint: Endpoint, left: () => number): Promise<GuestAgent> {
  for (;;) {
    try {
      return await GuestAgent.connect(endpoint, { timeoutMs: left() });
    } catch (error) {
      if (!(error instanceof GuestAgentError) || error.kind !== 'lost' || left() <= PAUSE_MS) {
        throw new GuestNotThawed(endpoint, error);
      }
    }
    await sleep(PAUSE_MS);
  }
}

/** The status on its own, behind a sync of its own. */
async function askOnly(agent: GuestAgent, timeoutMs: number): Promise<ThawStep> {
  const requestedAt = performance.now();
  const after = await agent.fsfreezeStatus(timeoutMs);
  const answeredAt = performance.now();
  return { before: 'unknown', after, requestedAt, answeredAt, confirmedAt: answeredAt };
}

function hasSettled(thawedSince: number | undefined): boolean {
  return thawedSince !== undefined && performance.now() - thawedSince >= SETTLE_MS;
}

function closed(agent: GuestAgent | undefined): undefined {
  agent?.close();
  return undefined;
}

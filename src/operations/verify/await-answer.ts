import { setTimeout as sleep } from 'node:timers/promises';
import type { BootExpectation } from '../../core/boot-proof.js';
import { messageOf, QmpBackupError } from '../../errors.js';
import { GuestAgent } from '../../guest-agent/client.js';
import { GuestAgentError } from '../../guest-agent/errors.js';
import type { QmpClient } from '../../qmp/client.js';
import { run } from '../../qmp/commands.js';
import { serialMatcher } from './serial-log.js';

export interface Booting {
  readonly monitor: QmpClient;
  readonly agentSocket: string;
  readonly serialLog: string;
  readonly expect: BootExpectation;
  /** What may be waited, and when the wait began, in `performance.now()`. */
  readonly timeoutMs: number;
  readonly since: number;
  readonly signal: AbortSignal;
}

const POLL_MS = 200;
const AGENT_MS = 5_000;

/** States in which a guest will not answer any more. */
const OVER = ['guest-panicked', 'internal-error', 'io-error', 'shutdown', 'watchdog'];

/** Resolves to null when the machine has answered, else to why it has not, in words. Throws the signal's reason. */
export async function awaitAnswer(booting: Booting): Promise<string | null> {
  const { monitor, expect, timeoutMs, since, signal } = booting;
  const ask = questionOf(booting);
  let unanswered = 'it did not answer';
  for (;;) {
    signal.throwIfAborted();
    const { status } = await run(monitor, 'query-status');
    if (OVER.includes(status)) return `its guest is no longer at work: QEMU calls it ${status}`;
    const left = timeoutMs - (performance.now() - since);
    if (left <= 0) return `${unanswered} within ${timeoutMs / 1000} s`;
    const answer = await ask(Math.min(left, AGENT_MS));
    if (answer === true) return null;
    unanswered = answer;
    await sleep(expect.kind === 'agent' ? 0 : Math.min(left, POLL_MS));
  }
}

/** Whether it has answered by now, else what is missing, in words. `ms`: how long that may take. */
type Question = (ms: number) => Promise<true | string>;

function questionOf({ agentSocket, serialLog, expect, signal }: Booting): Question {
  switch (expect.kind) {
    case 'agent':
      return (ms) => askAgent(agentSocket, ms, signal);
    case 'serial': {
      const fits = serialMatcher(serialLog, expect.pattern);
      return async () => (await fits()) || `nothing on its serial port fitted ${expect.pattern}`;
    }
    case 'running': {
      const until = performance.now() + expect.seconds * 1000;
      return () => Promise.resolve(performance.now() >= until || `it had not run for ${expect.seconds} s`);
    }
  }
}

async function askAgent(path: string, timeoutMs: number, signal: AbortSignal): Promise<true | string> {
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

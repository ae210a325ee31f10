import { setTimeout as sleep } from 'node:timers/promises';
import type { BootExpectation } from '../../core/boot-proof.js';
import { serialMatcher } from './serial-log.js';
import type { TrialMachine } from './trial-machine.js';

export interface Booting {
  readonly machine: Pick<TrialMachine, 'over' | 'askAgent'>;
  readonly serialLog: string;
  readonly expect: BootExpectation;
  /** What may be waited, and when the wait began, in `performance.now()`. */
  readonly timeoutMs: number;
  readonly since: number;
  readonly signal: AbortSignal;
}

const POLL_MS = 200;
const AGENT_MS = 5_000;

/** Resolves to null when the machine has answered, else to why it has not, in words. Throws the signal's reason. */
export async function awaitAnswer(booting: Booting): Promise<string | null> {
  const { machine, expect, timeoutMs, since, signal } = booting;
  const ask = questionOf(booting);
  let unanswered = 'it did not answer';
  for (;;) {
    signal.throwIfAborted();
    const over = await machine.over();
    if (over !== null) return over;
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

function questionOf({ machine, serialLog, expect }: Booting): Question {
  switch (expect.kind) {
    case 'agent':
      return (ms) => machine.askAgent(ms);
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

/** What became of a freeze, as its run is told. */
import type { FreezeStatus } from '../guest-agent/client.js';
import type { FreezeTimeline, ThawedMessage } from './freeze-guard-messages.js';

export interface ThawReport {
  readonly confirmed: true;
  /** `request`: when asked to · `limit`: the freeze limit was over · `guard`: another cause of its own · `parent`: the guard was gone. */
  readonly thawedBy: 'request' | 'limit' | 'guard' | 'parent';
  /** From the agent's answer to the freeze (its request, if there was none) to its answer to the thaw. */
  readonly frozenForMs: number;
  /** Missing if the guard was gone. */
  readonly timeline: FreezeTimeline | undefined;
}

export interface FinishReport extends ThawReport {
  readonly thawed: true;
  /** What the agent said just before the thaw. Only `frozen` proves that the transaction saw a frozen guest. */
  readonly statusAfterTransaction: FreezeStatus | 'unknown';
  /** From the freeze's answer (its request, if there was none) to the thaw's request; longer if the guard was gone. */
  readonly freezeAnswerToThawRequestMs: number;
}

/** The guard has thawed. */
export function reportOfGuard(thawed: ThawedMessage): FinishReport {
  const { cause, statusBefore, timeline } = thawed;
  const answered = timeline.freezeAnsweredMs ?? 0;
  return {
    confirmed: true,
    thawed: true,
    thawedBy: cause === 'finish' || cause === 'thaw' ? 'request' : cause === 'limit' ? 'limit' : 'guard',
    // Only finish asks; where the guard thawed for a reason of its own the transaction may have met a thawed guest.
    statusAfterTransaction: cause === 'finish' ? statusBefore : cause === 'thaw' ? 'unknown' : 'thawed',
    freezeAnswerToThawRequestMs: timeline.thawRequestedMs - answered,
    frozenForMs: timeline.thawAnsweredMs - answered,
    timeline,
  };
}

/** The guard was gone, and its owner has thawed. */
export function reportOfOwner(frozenForMs: number): FinishReport {
  return {
    confirmed: true,
    thawed: true,
    thawedBy: 'parent',
    statusAfterTransaction: 'unknown',
    freezeAnswerToThawRequestMs: frozenForMs,
    frozenForMs,
    timeline: undefined,
  };
}

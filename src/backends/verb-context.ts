import type { Warning } from '../core/warning.js';

/** What a verb is given beside its request. A library call may leave any of it out. */
export interface VerbContext<Event> {
  /** Ends the run, which then undoes what it has begun. */
  readonly signal: AbortSignal;
  readonly now: () => Date;
  /** Told what happens on the way. */
  readonly report: (event: Event) => void;
  /** Told each QMP message. */
  readonly trace: Trace | undefined;
}

export type Trace = (direction: '>' | '<', message: unknown) => void;

/** What there may be to tell of any run. */
export interface WarningEvent extends Warning {
  readonly kind: 'warning';
}

export function contextOf<Event>(given: Partial<VerbContext<Event>>): VerbContext<Event> {
  return {
    signal: given.signal ?? new AbortController().signal,
    now: given.now ?? (() => new Date()),
    report: given.report ?? (() => undefined),
    trace: given.trace,
  };
}

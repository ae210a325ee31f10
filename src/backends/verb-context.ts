import type { Warning } from '../core/warning.js';
import { messageOf, QmpBackupError } from '../errors.js';

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
    signal: given.signal ? inOurWords(given.signal) : new AbortController().signal,
    now: given.now ?? (() => new Date()),
    report: given.report ?? (() => undefined),
    trace: given.trace,
  };
}

/** Whoever aborts with a reason of ours has it told as it is; any other reason is that the run was interrupted. */
function inOurWords(signal: AbortSignal): AbortSignal {
  const told = new AbortController();
  const abort = (): void => {
    const reason: unknown = signal.reason;
    told.abort(
      reason instanceof QmpBackupError
        ? reason
        : new QmpBackupError('interrupted', `interrupted: ${messageOf(reason)}`, { cause: reason }),
    );
  };
  if (signal.aborted) abort();
  else signal.addEventListener('abort', abort, { once: true });
  return told.signal;
}

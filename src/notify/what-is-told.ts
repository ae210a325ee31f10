import type { NotifyRules } from '../config/notifiers.js';
import { isDue } from '../core/due-checks.js';

/**
 * What a notifier is told after a run, and what is remembered of it. A VM that goes on failing is one event, from the first run that
 * failed to the first that did not, whatever it fails of. Without a file or a network; times are ISO 8601.
 */
export interface Trouble {
  /** Null is the run itself. */
  readonly vm: string | null;
  readonly since: string;
  readonly why: string;
}

/** A trouble that lasts. */
export interface OpenEvent extends Trouble {
  /** When it was told last; null: not yet. */
  readonly toldAt: string | null;
}

/** What a digest has to tell of since the last one. */
export interface News extends Trouble {
  readonly kind: 'failed' | 'recovered';
}

export interface Remembered {
  readonly events: readonly OpenEvent[];
  /** When a digest was told last; null: never. */
  readonly digestAt: string | null;
  readonly news: readonly News[];
}

export const NOTHING_REMEMBERED: Remembered = { events: [], digestAt: null, news: [] };

/** How things are after a run. Of what is in neither nothing is known, as of a VM that was left out: its event stays open. */
export interface Standing {
  readonly troubles: readonly Trouble[];
  /** VMs, and null for the run itself, that are not, or no longer, in trouble. */
  readonly sound: readonly (string | null)[];
}

export type Occasion = 'failure' | 'reminder' | 'recovery' | 'digest' | 'always';

export interface Telling {
  /** Why a message is due; none: there is nothing to tell. */
  readonly occasions: readonly Occasion[];
  /** Those that were not told yet. */
  readonly failures: readonly Trouble[];
  readonly reminders: readonly OpenEvent[];
  /** Also of failures that could not be told in time. */
  readonly recoveries: readonly OpenEvent[];
  readonly news: readonly News[];
  /** What is remembered once it is told, or where there is nothing to tell, and where it could not be told. */
  readonly ifTold: Remembered;
  readonly ifNot: Remembered;
}

/** Of a digest; what is more is not told. */
const MOST_NEWS = 1_000;

export function whatIsTold(
  { on, remindDays, digestAt }: NotifyRules,
  known: Remembered,
  { troubles, sound }: Standing,
  now: Date,
): Telling {
  const isOn = { failure: on.includes('failure'), recovery: on.includes('recovery') };
  const before = new Map(known.events.map((event) => [event.vm, event]));
  const open = troubles.map((each): OpenEvent => {
    const earlier = before.get(each.vm);
    // The reason may be another one by now, and it is the same event.
    return earlier ? { ...earlier, why: each.why } : { ...each, toldAt: null };
  });
  const over = known.events.filter(({ vm }) => sound.includes(vm));
  const unknown = known.events.filter(({ vm }) => !sound.includes(vm) && !open.some((each) => each.vm === vm));

  const failures = isOn.failure ? open.filter(({ toldAt }) => toldAt === null) : [];
  const reminders =
    isOn.failure && remindDays !== null
      ? open.filter(({ toldAt }) => toldAt !== null && isDue(Date.parse(toldAt), remindDays, now.getTime()))
      : [];
  const recoveries = isOn.recovery ? over : isOn.failure ? over.filter(({ toldAt }) => toldAt === null) : [];
  const hasDigest = on.includes('digest');
  const isDigestDue = hasDigest && isAfterDigest(known.digestAt, digestAt, now);
  const news = hasDigest ? newsOf(known, open, over, now) : [];
  const occasions: readonly Occasion[] = [
    ...(failures.length > 0 ? (['failure'] as const) : []),
    ...(reminders.length > 0 ? (['reminder'] as const) : []),
    ...(recoveries.length > 0 ? (['recovery'] as const) : []),
    ...(isDigestDue ? (['digest'] as const) : []),
    ...(on.includes('always') ? (['always'] as const) : []),
  ];
  const isTold = [...failures, ...reminders];
  const told = open.map((each) => (isTold.includes(each) ? { ...each, toldAt: now.toISOString() } : each));
  return {
    ...{ occasions, failures, reminders, recoveries },
    news: isDigestDue ? news : [],
    ifTold: {
      events: [...told, ...unknown],
      digestAt: isDigestDue ? now.toISOString() : known.digestAt,
      news: isDigestDue ? [] : news,
    },
    ifNot: { events: [...open, ...unknown, ...over], digestAt: known.digestAt, news },
  };
}

/** What was news before, and what has become so; an event that is over and was not told yet is news once. */
function newsOf(known: Remembered, open: readonly OpenEvent[], over: readonly OpenEvent[], now: Date): readonly News[] {
  const begun = open
    .filter(({ vm }) => !known.events.some((event) => event.vm === vm))
    .map(({ vm, since, why }): News => ({ kind: 'failed', vm, since, why }));
  const ended = over
    .filter(
      (event) =>
        !known.news.some(({ kind, vm, since }) => kind === 'recovered' && vm === event.vm && since >= event.since),
    )
    .map(({ vm, why }): News => ({ kind: 'recovered', vm, since: now.toISOString(), why }));
  return [...known.news, ...begun, ...ended].slice(-MOST_NEWS);
}

/** Whether that time of the day has come again since the last digest. */
function isAfterDigest(last: string | null, minutes: number, now: Date): boolean {
  if (last === null) return true;
  const due = new Date(now);
  due.setHours(Math.floor(minutes / 60), minutes % 60, 0, 0);
  if (due > now) due.setDate(due.getDate() - 1);
  // A clock that went back has no say in it.
  return Date.parse(last) < due.getTime() || Date.parse(last) > now.getTime();
}

/** When a check that is to be made at most once in a time was made last, and whether it is due again. */

/** A part of the time by which a check may come early: the next run would else be a whole run late for some minutes. */
const EARLY = 0.05;
/** Days: a run of every day that began a little later yesterday. */
const MOST_EARLY = 1 / 24;

const DAY_MS = 86_400_000;

/** @param lastMs null is never. A time in the future, as of a clock that went back, counts as never. */
export function isDue(lastMs: number | null, everyDays: number, nowMs: number): boolean {
  if (lastMs === null || lastMs > nowMs) return true;
  const early = Math.min(everyDays * EARLY, MOST_EARLY);
  return nowMs - lastMs >= (everyDays - early) * DAY_MS;
}

import { counted } from './counted.js';
import { getISOWeek } from 'date-fns/getISOWeek';
import { getISOWeekYear } from 'date-fns/getISOWeekYear';
import { parseISO } from 'date-fns/parseISO';
import { subDays } from 'date-fns/subDays';
import { toDate } from 'date-fns/toDate';
import type { Point } from './point.js';
import { bytesOfPoint, parentsIn } from './point-space.js';

/** Which points of a history are kept, and why: see docs/decisions/0030-retention.md. Local time is that of the process. */
export const COUNT_RULES = ['last', 'hourly', 'daily', 'weekly', 'monthly', 'yearly'] as const;
export type CountRule = (typeof COUNT_RULES)[number];

export interface RetentionRules {
  /** Of how many of the newest buckets the newest point is kept; null is no such rule. */
  readonly counts: Readonly<Record<CountRule, number | null>>;
  /** `--keep-within` in days; null is no such rule. */
  readonly within: number | null;
}

export interface RetentionOptions {
  readonly rules: RetentionRules;
  /** Milliseconds: what is later is dated in the future. */
  readonly now: number;
  readonly dropDamaged: boolean;
  readonly allowRemoveAll: boolean;
  /** What a kept point builds on may go: its data is merged into that. */
  readonly consolidate: boolean;
}

/** A point of a history. */
export interface HistoryPoint {
  /** Its target; points need only points of the same. */
  readonly target: string;
  readonly point: Point;
  /** Why it cannot be restored as a whole, or null. */
  readonly fault: string | null;
  /** Ids of its disks whose state can be had. */
  readonly good: ReadonlySet<string>;
  /** The next increment builds on one of its files. */
  readonly tracked: boolean;
}

export interface RetentionReason {
  readonly code:
    | CountRule
    | 'within'
    | 'pinned'
    /** A kept point builds on it. */
    | 'needed'
    /** No other kept point has the state of one of its disks. */
    | 'last-good'
    | 'tracked'
    | 'damaged'
    | 'future'
    /** Dated before an older point of its chain; or it shows that one to be so. */
    | 'out-of-order'
    | 'undated'
    /** `--keep-free`: enough is free without dropping it. */
    | 'space';
  /** For people: `monthly 2026-10`. */
  readonly text: string;
}

export interface PointVerdict extends HistoryPoint {
  /** Why it is kept; empty for one that is dropped. */
  readonly reasons: readonly RetentionReason[];
}

/** `history` is in the order in which its points were sealed, the months of one VM one after the other. */
export function retain(history: readonly HistoryPoint[], options: RetentionOptions): readonly PointVerdict[] {
  const reasons = history.map((): RetentionReason[] => []);
  const keep = (index: number, reason: RetentionReason): void => void reasons[index]?.push(reason);
  const { rules, dropDamaged, allowRemoveAll, consolidate } = options;
  const isWreck = ({ fault }: HistoryPoint): boolean => fault !== null && dropDamaged;

  for (const [index, each] of history.entries()) {
    const { pinned, note } = each.point;
    if (pinned) keep(index, { code: 'pinned', text: note === undefined ? 'pinned' : `pinned: ${note}` });
    if (each.tracked) keep(index, { code: 'tracked', text: 'the next increment builds on it' });
    if (each.fault !== null && !dropDamaged) keep(index, { code: 'damaged', text: `not whole: ${each.fault}` });
  }
  const timed = history.map((each, index): Timed => ({ each, index, ms: parseISO(each.point.createdAt).getTime() }));
  const misdated = findMisdated(
    timed.filter(({ each }) => !isWreck(each)),
    options.now,
  );
  for (const { index, reason } of misdated.kept) keep(index, reason);
  const inTime = timed
    .filter(({ each, index }) => each.fault === null && !misdated.unplaced.has(index))
    .toSorted((a, b) => b.ms - a.ms || b.index - a.index);
  for (const { index, reason } of [...keptByCounts(inTime, rules), ...keptWithin(inTime, rules)]) keep(index, reason);

  if (!consolidate) keepParents(history, reasons);
  if (!allowRemoveAll) keepLastGood(history, reasons, consolidate);
  return history.map((each, index) => ({ ...each, reasons: reasons[index] ?? [] }));
}

interface Timed {
  readonly each: HistoryPoint;
  readonly index: number;
  readonly ms: number;
}

interface Keeping {
  readonly index: number;
  readonly reason: RetentionReason;
}

/**
 * Points whose time says nothing: they fill no bucket and are kept. A point that shows another to be out of order is kept
 * too, and has its place all the same: without it the other would look right from then on.
 */
function findMisdated(
  points: readonly Timed[],
  now: number,
): { readonly kept: readonly Keeping[]; readonly unplaced: ReadonlySet<number> } {
  const kept: Keeping[] = [];
  const unplaced = new Set<number>();
  const leave = (index: number, reason: RetentionReason): void => {
    kept.push({ index, reason });
    unplaced.add(index);
  };
  const latest = new Map<string, Timed>();
  const witnesses = new Set<Timed>();
  for (const one of points) {
    const { each, index, ms } = one;
    const { target, point } = each;
    if (Number.isNaN(ms)) leave(index, { code: 'undated', text: `its time cannot be read: ${point.createdAt}` });
    else if (ms > now) leave(index, { code: 'future', text: 'dated in the future' });
    else if (point.chain !== null) {
      const chain = `${target}\n${point.chain}`;
      const before = latest.get(chain);
      if (before && before.ms > ms) {
        leave(index, { code: 'out-of-order', text: `dated before ${fileOf(before.each)}, which is older` });
        witnesses.add(before);
      } else latest.set(chain, one);
    }
  }
  for (const { index } of witnesses) {
    kept.push({ index, reason: { code: 'out-of-order', text: 'shows that a later point is out of order' } });
  }
  return { kept, unplaced };
}

/** Newest first; so many buckets that hold a point, of each the newest. */
function keptByCounts(points: readonly Timed[], { counts }: RetentionRules): readonly Keeping[] {
  return COUNT_RULES.flatMap((rule) => {
    const kept: Keeping[] = [];
    let last: string | undefined;
    for (const { index, ms } of points) {
      if (kept.length >= (counts[rule] ?? 0)) break;
      const bucket = rule === 'last' ? `${kept.length + 1}` : BUCKETS[rule](toDate(ms));
      if (bucket === last) continue;
      last = bucket;
      kept.push({ index, reason: { code: rule, text: `${rule} ${bucket}` } });
    }
    return kept;
  });
}

const BUCKETS: Readonly<Record<Exclude<CountRule, 'last'>, (at: Date) => string>> = {
  hourly: (at) => `${dayOf(at)} ${two(at.getHours())}`,
  daily: dayOf,
  weekly: (at) => `${getISOWeekYear(at)}-W${two(getISOWeek(at))}`,
  monthly: (at) => `${at.getFullYear()}-${two(at.getMonth() + 1)}`,
  yearly: (at) => `${at.getFullYear()}`,
};

function dayOf(at: Date): string {
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
}

function two(number: number): string {
  return `${number}`.padStart(2, '0');
}

const DAY_MS = 86_400_000;

/**
 * Counted back from the newest, never from the clock: a host that was off for a year drops nothing for that. Nor does a run
 * under a clock that is a year ahead: the newest gap that is longer than the span and a day counts as nothing.
 */
function keptWithin(points: readonly Timed[], { within }: RetentionRules): readonly Keeping[] {
  const [newest] = points;
  if (!newest || within === null) return [];
  const whole = Math.floor(within);
  const from = subDays(newest.ms, whole).getTime() - (within - whole) * DAY_MS;
  const gapBefore = (index: number): number => (points[index]?.ms ?? 0) - (points[index + 1]?.ms ?? Infinity);
  const last = points.findIndex((_, index) => gapBefore(index) > newest.ms - from + DAY_MS);
  return points.flatMap(({ index, ms }, place) => {
    const gap = last === -1 || place <= last ? 0 : gapBefore(last);
    if (ms + gap < from) return [];
    const text = `within ${spanInWords(within)} of the newest`;
    return [{ index, reason: { code: 'within', text: gap === 0 ? text : `${text}, without the gap after it` } }];
  });
}

function spanInWords(days: number): string {
  return Number.isInteger(days) ? counted(days, 'day') : counted(Math.round(days * 24), 'hour');
}

/** Keeps what kept points build on, and says for which of them. */
function keepParents(history: readonly HistoryPoint[], reasons: readonly RetentionReason[][]): void {
  const parents = parentsIn(history);
  const open = reasons.flatMap((found, index) => (found.length > 0 ? [index] : []));
  // From the end: the newest that needs a point is named.
  for (let index = open.pop(); index !== undefined; index = open.pop()) {
    for (const { parent, file } of parents[index] ?? []) {
      const found = reasons[parent];
      if (!found || found.some(({ code }) => code === 'needed')) continue;
      found.push({ code: 'needed', text: `needed by ${file}` });
      open.push(parent);
    }
  }
}

/** Of a disk that no kept point can give back, the newest that can is kept. */
function keepLastGood(
  history: readonly HistoryPoint[],
  reasons: readonly RetentionReason[][],
  consolidate: boolean,
): void {
  const disks = new Set(history.flatMap(({ good }) => [...good]));
  for (const disk of [...disks].toSorted()) {
    const isKept = history.some(({ good }, index) => good.has(disk) && (reasons[index]?.length ?? 0) > 0);
    if (isKept) continue;
    const last = history.findLastIndex(({ good }) => good.has(disk));
    reasons[last]?.push({ code: 'last-good', text: `the last good point of ${disk}` });
    if (!consolidate) keepParents(history, reasons);
  }
}

/** The file of its first disk, by which people know it. */
function fileOf({ point }: HistoryPoint): string {
  return point.disks[0]?.file ?? point.id;
}

/**
 * `--keep-free`: of what the rules drop only as much goes as frees `need` bytes. The oldest first, but one that others
 * build on only after them.
 */
export function onlyAsNeeded(verdicts: readonly PointVerdict[], need: number): readonly PointVerdict[] {
  const parents = parentsIn(verdicts);
  const left = new Set(verdicts.flatMap(({ reasons }, index) => (reasons.length === 0 ? [index] : [])));
  const oldestFirst = [...left].toSorted((a, b) => timeOf(verdicts[a]) - timeOf(verdicts[b]) || a - b);
  const children = verdicts.map(() => 0);
  for (const index of left)
    for (const { parent } of parents[index] ?? []) children[parent] = (children[parent] ?? 0) + 1;
  let missing = need;
  while (missing > 0) {
    const next = oldestFirst.find((index) => left.has(index) && children[index] === 0);
    if (next === undefined) break;
    left.delete(next);
    for (const { parent } of parents[next] ?? []) children[parent] = (children[parent] ?? 0) - 1;
    const verdict = verdicts[next];
    missing -= verdict ? bytesOfPoint(verdict.point) : 0;
  }
  return verdicts.map((each, index) =>
    left.has(index) ? { ...each, reasons: [{ code: 'space', text: 'enough is free without dropping it' }] } : each,
  );
}

function timeOf(verdict: PointVerdict | undefined): number {
  return verdict ? parseISO(verdict.point.createdAt).getTime() : 0;
}

/** `--consolidate`: dropped points that cannot be merged into the one after them stay, with the reason. */
export function keepUnmergeable(
  verdicts: readonly PointVerdict[],
  unmergeable: readonly { readonly target: string; readonly point: string; readonly why: string }[],
): readonly PointVerdict[] {
  const why = new Map(unmergeable.map((each) => [`${each.target}\n${each.point}`, each.why]));
  return verdicts.map((each) => {
    const text = why.get(`${each.target}\n${each.point.id}`);
    if (text === undefined || each.reasons.length > 0) return each;
    return { ...each, reasons: [{ code: 'needed', text: `needed, and cannot be merged: ${text}` }] };
  });
}

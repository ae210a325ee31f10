/** From samples to medians, what they are compared with, and whether the goal is met. */
import type { Case, Limit, Measure, Role, Unit, Where } from './case.js';

export interface Figure {
  readonly name: string;
  readonly role: Role;
  readonly samples: readonly number[];
  readonly median: number;
}

export interface Result {
  readonly case: string;
  readonly where: Where;
  readonly unit: Unit;
  readonly limit: Limit;
  readonly figures: readonly Figure[];
  /** This build by `limit.by`: how many times, how much more, or itself. */
  readonly value: number;
  /** The quickest of what it is compared with. */
  readonly reference: string | null;
  /** How many times as long as the other build this one takes. */
  readonly timesOther: number | null;
  /** Null without a goal. */
  readonly met: boolean | null;
}

export interface Sampled extends Pick<Measure, 'name' | 'role'> {
  readonly samples: readonly number[];
}

/** Goals are those of memory: how a disk does is shown and judged by nobody. */
export function resultOf(
  { name, unit, limit }: Pick<Case, 'name' | 'unit' | 'limit'>,
  where: Where,
  sampled: readonly Sampled[],
): Result {
  const figures = sampled.map((each) => ({ ...each, median: median(each.samples) }));
  const [ours] = figures.filter(({ role }) => role === 'this');
  if (!ours) throw new Error(`${name} has not measured this build`);
  const [other] = figures.filter(({ role }) => role === 'other');
  const [reference] = figures.filter(({ role }) => role === 'against').toSorted((a, b) => a.median - b.median);
  const held: Limit = where === 'memory' ? limit : { ...limit, atMost: null };
  const value = valueOf(ours.median, reference?.median, held);
  return {
    case: name,
    where,
    unit,
    limit: held,
    figures,
    value,
    reference: reference?.name ?? null,
    timesOther: other ? ours.median / other.median : null,
    met: held.atMost === null ? null : value <= held.atMost,
  };
}

/** Of an even number of values the mean of the two in the middle. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length / 2;
  const [low, high] = [sorted[Math.ceil(middle) - 1], sorted[Math.floor(middle)]];
  if (low === undefined || high === undefined) throw new Error('no median of no values');
  return (low + high) / 2;
}

function valueOf(ours: number, reference: number | undefined, { by }: Limit): number {
  if (by === 'itself') return ours;
  if (reference === undefined) throw new Error('there is nothing that it could be compared with');
  return by === 'times' ? ours / reference : ours - reference;
}

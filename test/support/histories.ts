import type { HistoryPoint, RetentionOptions, RetentionRules, PointVerdict } from '../../src/core/retention.js';
import { COUNT_RULES, retain } from '../../src/core/retention.js';
import type { Point } from '../../src/core/point.js';
import { entry, point } from './builders.js';

/** Points of one disk as the rules of retention look at them. */
export interface PointSpec {
  /** ISO 8601. */
  readonly at: string;
  /** Index of the point that it builds on; none is a FULL. */
  readonly on?: number | null;
  readonly chain?: string | null;
  readonly fault?: string | null;
  readonly more?: Partial<Point>;
  readonly tracked?: boolean;
  readonly target?: string;
}

export function historyOf(specs: readonly PointSpec[]): readonly HistoryPoint[] {
  const nameOf = (index: number): string => `${specs[index]?.on == null ? 'FULL' : 'INC'}-${index + 1}.qcow2`;
  return specs.map(
    ({ at, on = null, chain = 'c1', fault = null, more = {}, tracked = false, target = '/t' }, index) => {
      const parent = on === null ? null : nameOf(on);
      return {
        target,
        point: point(index, [entry('d1', nameOf(index), { parent, allocated: 1000 })], {
          createdAt: at,
          chain,
          ...more,
        }),
        fault,
        good: new Set(fault === null ? ['d1'] : []),
        tracked,
      };
    },
  );
}

type Counts = RetentionRules['counts'];

const NONE = Object.fromEntries(COUNT_RULES.map((rule) => [rule, null])) as unknown as Counts;

export function rulesOf({
  within = null,
  ...counts
}: Partial<Counts> & { readonly within?: number | null }): RetentionRules {
  return { counts: { ...NONE, ...counts }, within };
}

export function retained(
  history: readonly HistoryPoint[],
  rules: RetentionRules,
  more: Partial<RetentionOptions> = {},
): readonly PointVerdict[] {
  const now = Date.parse('2100-01-01T00:00:00Z');
  return retain(history, { rules, now, dropDamaged: false, allowRemoveAll: false, consolidate: false, ...more });
}

/** What is left when the dropped points are gone. */
export function remaining(verdicts: readonly PointVerdict[]): readonly HistoryPoint[] {
  return verdicts.filter(({ reasons }) => reasons.length > 0);
}

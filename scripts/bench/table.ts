/** The results as people read them: one table, the goals that were missed, and what was left out. */
import type { Unit } from './case.js';
import type { Result } from './results.js';

/** What gave no result, and why. */
export interface NoResult {
  readonly what: string;
  readonly why: string;
}

export interface Outcome {
  readonly results: readonly Result[];
  /** For want of something here, such as memory or a peer. */
  readonly leftOut: readonly NoResult[];
  readonly failed: readonly NoResult[];
}

const HEAD = ['case', 'this build', 'the other', 'ratio', 'against', '', '', 'goal', ''];
const TO_THE_RIGHT = [1, 2, 3, 5, 6];

export function tableOf({ results, leftOut, failed }: Outcome): string {
  const sections = (['memory', 'disk'] as const).flatMap((where) => {
    const rows = results.filter((result) => result.where === where).flatMap(rowsOf);
    return rows.length === 0
      ? []
      : [`in ${where === 'memory' ? 'memory' : 'files on a disk'}`, ...aligned([HEAD, ...rows]), ''];
  });
  const missed = missedGoals(results);
  return [
    ...sections,
    ...(missed.length === 0 ? [] : ['goals that were missed:', ...missed.map((line) => `  ${line}`)]),
    ...leftOut.map(({ what, why }) => `left out: ${what}: ${why}`),
    ...failed.map(({ what, why }) => `failed: ${what}: ${why}`),
  ]
    .join('\n')
    .trimEnd();
}

/** Each in a line. */
export function missedGoals(results: readonly Result[]): readonly string[] {
  return results
    .filter(({ met }) => met === false)
    .map((result) => `${result.case}: ${comparison(result)}${ofReference(result)}, goal ${goal(result)}`);
}

/** 1 where a goal was missed, or a case could not be measured although all it needs is there. */
export function exitCodeOf({ results, failed }: Outcome): 0 | 1 {
  return failed.length > 0 || results.some(({ met }) => met === false) ? 1 : 0;
}

/** The case's own row; below it what else it was set beside. */
function rowsOf(result: Result): readonly (readonly string[])[] {
  const { figures, unit, timesOther, met } = result;
  const shown = (role: string): string[] =>
    figures.filter((each) => each.role === role).map(({ median }) => quantity(median, unit));
  const references = figures.filter(({ role }) => role === 'against' || role === 'beside');
  const first = references.find(({ name }) => name === result.reference);
  const [ours = '', other = ''] = [...shown('this'), ...shown('other')];
  return [
    [
      result.case,
      ours,
      other,
      timesOther === null ? '' : times(timesOther),
      ...(first ? [first.name, quantity(first.median, unit)] : ['', '']),
      result.limit.by === 'itself' ? '' : comparison(result),
      goal(result),
      met === null ? '' : met ? 'met' : 'MISSED',
    ],
    ...references
      .filter((each) => each !== first)
      .map(({ name, median }) => ['', '', '', '', name, quantity(median, unit), '', '', '']),
  ];
}

function comparison({ limit, value, unit }: Result): string {
  if (limit.by === 'times') return times(value);
  return limit.by === 'more' ? more(value, unit) : quantity(value, unit);
}

function goal({ limit: { by, atMost }, unit }: Result): string {
  if (atMost === null) return '';
  const most = by === 'times' ? times(atMost) : by === 'more' ? more(atMost, unit) : quantity(atMost, unit);
  return `at most ${most}`;
}

function ofReference({ reference, limit }: Result): string {
  if (reference === null || limit.by === 'itself') return '';
  return limit.by === 'times' ? ` ${reference}` : ` than ${reference}`;
}

function times(value: number): string {
  return `${value.toFixed(2)} ×`;
}

function more(value: number, unit: Unit): string {
  return value < 0 ? `${quantity(-value, unit)} less` : `${quantity(value, unit)} more`;
}

function quantity(value: number, unit: Unit): string {
  if (unit === 'MiB') return `${value.toFixed(0)} MiB`;
  if (value >= 1000) return `${(value / 1000).toFixed(2)} s`;
  return `${value.toFixed(value < 100 ? 1 : 0)} ms`;
}

function aligned(rows: readonly (readonly string[])[]): readonly string[] {
  const widths = HEAD.map((_, column) => Math.max(...rows.map((row) => (row[column] ?? '').length)));
  const used = HEAD.map((_, column) => rows.slice(1).some((row) => row[column] !== ''));
  return rows.map((row) =>
    row
      .map((cell, column) => {
        const width = widths[column] ?? 0;
        return TO_THE_RIGHT.includes(column) ? cell.padStart(width) : cell.padEnd(width);
      })
      .filter((_, column) => used[column])
      .join('  ')
      .trimEnd(),
  );
}

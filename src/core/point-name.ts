import { parseISO } from 'date-fns/parseISO';
import { QmpBackupError } from '../errors.js';
import { type AskedTime, timeIn } from './asked-time.js';
import { listNames } from './listed-names.js';

/** How people name a point, in all commands: the forms that `POINT_FORMS` tells. */
export interface NameablePoint {
  readonly id: string;
  /** Null for a copy. */
  readonly chain: string | null;
  readonly number: number;
  /** ISO 8601. */
  readonly createdAt: string;
}

/** Of every option that takes a point. */
export const POINT_FORMS =
  'N of the newest chain, CHAIN:N, latest, latest~2, the first letters of an id (six or more), or a time';

/**
 * The one of `points`, in the order in which they were sealed, that `name` means.
 *
 * @throws QmpBackupError `usage` where it means none or two, with what there is
 */
export function pointNamed<P extends NameablePoint>(points: readonly P[], name: string): P {
  const found = [...new Set(meanings(points, name))];
  const [first, second] = found;
  if (first !== undefined && second === undefined) return first;
  if (first === undefined)
    throw new QmpBackupError('usage', `there is no point ${name}`, { hint: whatThereIs(points, name) });
  throw new QmpBackupError(
    'usage',
    `${name} fits ${found.length} points: ${listNames(found.map((each) => `${nameIn(each, points)} (${each.id})`))}`,
    {
      hint: 'Name it by its chain, CHAIN:N, or by more letters of its id.',
    },
  );
}

/** The newest point that is not later; undefined where all are. Not an older one where it cannot be restored. */
export function pointAt<P extends NameablePoint>(points: readonly P[], { lastMs }: AskedTime): P | undefined {
  return inTime(points).findLast(({ ms }) => ms <= lastMs)?.point;
}

/** In the order of their times, each with its own in milliseconds. */
export function inTime<P extends NameablePoint>(
  points: readonly P[],
): readonly { readonly point: P; readonly ms: number }[] {
  return points.map((point) => ({ point, ms: parseISO(point.createdAt).getTime() })).toSorted((a, b) => a.ms - b.ms);
}

function meanings<P extends NameablePoint>(points: readonly P[], name: string): readonly P[] {
  const exact = points.filter(({ id }) => id === name);
  const time = timeIn(name);
  const at = time && pointAt(points, time);
  return [
    ...exact,
    // The whole of an id may be the beginning of another.
    ...(exact.length === 0 && isPrefix(name) ? points.filter(({ id }) => id.startsWith(name)) : []),
    ...numbered(points, name),
    ...fromTheEnd(points, name),
    ...(at ? [at] : []),
  ];
}

const SHORTEST_PREFIX = 6;

/** One of digits alone is a number. */
function isPrefix(name: string): boolean {
  return name.length >= SHORTEST_PREFIX && /\D/.test(name);
}

function numbered<P extends NameablePoint>(points: readonly P[], name: string): readonly P[] {
  const [, named, digits] = /^(?:(.+):)?(\d+)$/.exec(name) ?? [];
  const chain = named ?? newestChain(points);
  // A copy is outside every chain.
  if (digits === undefined || chain === null) return [];
  return points.filter((each) => each.chain === chain && each.number === Number(digits));
}

function fromTheEnd<P extends NameablePoint>(points: readonly P[], name: string): readonly P[] {
  const [all, back = '0'] = /^latest(?:~(\d{1,9}))?$/.exec(name) ?? [];
  const found = all === undefined ? undefined : points.at(-1 - Number(back));
  return found ? [found] : [];
}

function whatThereIs(points: readonly NameablePoint[], name: string): string {
  const short = points.filter(({ id }) => name.length > 1 && name.length < SHORTEST_PREFIX && id.startsWith(name));
  const oldest = inTime(points)[0]?.point;
  if (oldest && timeIn(name)) return `The oldest is ${nameIn(oldest, points)}, of ${oldest.createdAt}`;
  if (short.length > 0) {
    return `Give at least ${SHORTEST_PREFIX} letters of an id, one of them no digit: ${listNames(short.map(({ id }) => id))}`;
  }
  return `There are: ${listNames(points.map((each) => nameIn(each, points)))}. A point is named by ${POINT_FORMS}.`;
}

/** `point 3`, with its chain where that is not the newest of `points`. */
export function nameIn({ id, chain, number }: NameablePoint, points: readonly NameablePoint[]): string {
  if (chain === null) return `copy ${id}`;
  return chain === newestChain(points) ? `point ${number}` : `point ${chain}:${number}`;
}

function newestChain(points: readonly NameablePoint[]): string | null {
  return points.findLast(({ chain }) => chain !== null)?.chain ?? null;
}

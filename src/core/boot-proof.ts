import * as v from 'valibot';
import type { OptionRule } from './option-rules.js';
import { QmpBackupError } from '../errors.js';
import { asComponent } from './names.js';
import type { Point } from './point.js';

/** What tells that a machine has booted. */
export type BootExpectation =
  | { readonly kind: 'agent' }
  /** On its serial port, a line that fits this regular expression. */
  | { readonly kind: 'serial'; readonly pattern: string }
  /** It runs for so long, in seconds: the least that can be asked. */
  | { readonly kind: 'running'; readonly seconds: number };

/** `serial:REGEX`, or `running:SECONDS`. */
export function expectation(flag: string): OptionRule<BootExpectation | string, BootExpectation | null> {
  return { flag, fallback: null, read: readExpectation };
}

const MOST_SECONDS = 86_400;

function readExpectation(given: BootExpectation | string): BootExpectation {
  if (typeof given === 'object') return readExpectation(asText(given));
  const [, kind, value] = (typeof given === 'string' && /^(serial|running):(.+)$/s.exec(given)) || [];
  if (kind === 'serial' && value !== undefined) {
    try {
      new RegExp(value, 'm');
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
      throw new QmpBackupError('usage', `${value} is no regular expression: ${error.message}`);
    }
    return { kind, pattern: value };
  }
  const seconds = Number(value);
  if (kind === 'running' && seconds > 0 && seconds <= MOST_SECONDS) return { kind, seconds };
  throw new QmpBackupError('usage', 'give serial:REGEX, or running:SECONDS of at most a day.');
}

function asText(given: BootExpectation): string {
  if (given.kind === 'serial') return `serial:${given.pattern}`;
  return given.kind === 'running' ? `running:${given.seconds}` : '';
}

/** How a point has booted when it was last tried. */
export const bootProof = v.object({
  /** Id of the point. */
  point: v.string(),
  /** ISO 8601. */
  at: v.string(),
  by: v.picklist(['agent', 'serial', 'running']),
  /** Milliseconds from the command to the answer; null where there was none. */
  afterMs: v.nullable(v.number()),
  /** Why not, in words; null where it has booted. */
  why: v.nullable(v.string()),
});

export type BootProof = v.InferOutput<typeof bootProof>;

/** What is kept of a start of a point, but for what follows the dot: a picture of its screen, its serial log. */
export function evidenceName({ number, id }: Pick<Point, 'number' | 'id'>): string {
  return `point-${number}-${asComponent(id)}`;
}

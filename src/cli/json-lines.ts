import { printableJson } from '../core/printable.js';
import type { WarningCode } from '../core/warning.js';
import type { AnswerDocument } from './documents/document.js';
import { JSON_SCHEMA } from './documents/envelope.js';
import type { ErrorDocument } from './documents/schemas/error.js';
import type { LineDocument } from './documents/schemas/line.js';
import { putAnswer } from './output.js';
import type { LogLevel } from './record.js';

/** `--json=lines`: all that is said on the way, and the answer or the error at the end, each as one line of JSON on stdout. */
export interface JsonLines {
  readonly log: (level: Exclude<LogLevel, 'error'>, text: string, code: WarningCode | null) => void;
  readonly progress: (unit: ProgressUnit, parts: readonly ProgressPart[]) => void;
  readonly answer: (answer: AnswerDocument) => Error | null;
  readonly error: (error: ErrorDocument['error']) => void;
}

export type ProgressUnit = 'bytes' | 'percent';

export interface ProgressPart {
  readonly name: string;
  readonly done: number;
  readonly total: number;
}

/** Bytes that may wait for a reader before progress is left out: a run goes on, also for hours, while nobody reads. */
const MOST_WAITING = 1 << 20;

interface Start<Type> {
  readonly schema: typeof JSON_SCHEMA;
  readonly type: Type;
  readonly at: string;
}

export function createJsonLines(now: () => Date): JsonLines {
  const start = <Type extends LineDocument['type']>(type: Type): Start<Type> => ({
    schema: JSON_SCHEMA,
    type,
    at: now().toISOString(),
  });
  const put = (line: LineDocument): Error | null => putAnswer(`${printableJson(line)}\n`);
  return {
    log: (level, text, code) => void put({ ...start('log'), level, code, text }),
    progress: (unit, parts) => {
      if (process.stdout.writableLength < MOST_WAITING) put({ ...start('progress'), unit, parts: [...parts] });
    },
    answer: (answer) => put({ ...start('answer'), answer }),
    error: (error) => void put({ ...start('error'), error }),
  };
}

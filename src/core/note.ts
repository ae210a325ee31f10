import { QmpBackupError } from '../errors.js';
import type { OptionRule } from './option-rules.js';

/** What people write of a point. It is printed as it is, so that nothing in it may steer a terminal. */
const LONGEST = 1000;

export function isNote(text: string): boolean {
  return text.length > 0 && text.length <= LONGEST && !/[\p{Cc}\p{Zl}\p{Zp}]/u.test(text);
}

export function noteText(flag: string): OptionRule<string, string | null> {
  return { flag, fallback: null, read: readNote };
}

export function requiredNote(flag: string): OptionRule<string, string> & { readonly required: true } {
  return { flag, fallback: undefined, required: true, read: readNote };
}

function readNote(given: string): string {
  const text = typeof given === 'string' ? given.trim() : '';
  if (isNote(text)) return text;
  throw new QmpBackupError('usage', `give a note of one line, of at most ${LONGEST} letters.`);
}

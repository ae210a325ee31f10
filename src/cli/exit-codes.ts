import { type ErrorCode, messageOf, QmpBackupError } from '../errors.js';

/** The one place that maps an error to an exit code. 130 and 143 follow from the signal, but where damage was found. */
const EXIT_CODES: Readonly<Record<ErrorCode, number>> = {
  failed: 1,
  usage: 2,
  partial: 3,
  damaged: 4,
  warnings: 5,
  'no-catalog': 10,
  locked: 11,
  unreachable: 12,
  unsafe: 13,
  interrupted: 130,
};

/** Why a command failed that has exit codes of its own. */
export class FailedWith extends Error {
  constructor(
    readonly exitCode: number,
    error: unknown,
  ) {
    super(messageOf(error), { cause: error });
  }
}

export function exitCodeFor(code: ErrorCode): number {
  return EXIT_CODES[code];
}

export function exitCodeOf(error: unknown, signal: NodeJS.Signals | undefined): number {
  // What a server finds when it is told to end is what there is to say.
  if (error instanceof QmpBackupError && error.code === 'damaged') return exitCodeFor('damaged');
  if (signal !== undefined) return signal === 'SIGINT' ? 130 : 143;
  return error instanceof QmpBackupError ? exitCodeFor(error.code) : 1;
}

/**
 * The one error of this project. `message` says what failed, `reason` (part of the message) why in the peer's own
 * words, and `hint` what to do next. `code` is mapped to an exit code in one place, `src/cli/exit-codes.ts`.
 */
export type ErrorCode =
  | 'failed'
  | 'usage'
  | 'partial'
  | 'damaged'
  | 'warnings'
  | 'no-catalog'
  | 'locked'
  | 'unreachable'
  | 'unsafe'
  | 'interrupted';

export class QmpBackupError extends Error {
  readonly code: ErrorCode;
  readonly hint: string | undefined;

  constructor(code: ErrorCode, message: string, options: { readonly hint?: string; readonly cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = new.target.name;
    this.code = code;
    this.hint = options.hint;
  }
}

/** The guest may still be frozen: its programs hang on their next write until somebody thaws it. */
export class NotThawed extends QmpBackupError {
  /** `byHand`: a shell line that thaws it. */
  constructor(reason: unknown, byHand: string) {
    super('failed', `it could not be confirmed that the guest is thawed: ${messageOf(reason)}`, {
      hint: `its file systems may still be frozen; thaw by hand: ${byHand}`,
      cause: reason,
    });
  }
}

/** The words of anything that was thrown, for use inside another message, which names the path where there is one. */
export function messageOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  // Node's own: `ENOENT: no such file or directory, open '/x'`
  return ('syscall' in error && /^E[A-Z0-9]+: ([^,]+)/.exec(error.message)?.[1]) || error.message;
}

/**
 * What can go wrong with an NBD server:
 *   QmpBackupError ─┬─ NbdUnreachable                      (unreachable: no connection, or nobody answers on it)
 *                   ├─ NbdConnectionLost · NbdDeadline     (failed: was connected, and what was asked is not answered)
 *                   ├─ NbdRefused                          (failed: the handshake ended with the server's no)
 *                   ├─ NbdServerError                      (failed: the server answered one request with an errno)
 *                   ├─ NbdProtocolViolation                (failed: what the server says cannot be trusted)
 *                   ├─ NbdRequestError                     (failed: a mistake of this program)
 *                   └─ NbdInterrupted                      (interrupted: by the caller's signal)
 * All but NbdServerError and NbdRequestError end the connection, and with it every request that is pending.
 */
import { messageOf, QmpBackupError } from '../errors.js';

export class NbdUnreachable extends QmpBackupError {
  constructor(where: string, reason: string, options: { readonly hint?: string; readonly cause?: unknown } = {}) {
    super('unreachable', `cannot connect to the NBD server at ${where}: ${reason}`, options);
  }
}

export class NbdConnectionLost extends QmpBackupError {
  constructor(where: string, reason: string, cause?: unknown) {
    super('failed', `the NBD connection to ${where} was lost: ${reason}`, { cause });
  }
}

/** A request, or the handshake, was not answered in time; the connection is given up. */
export class NbdDeadline extends QmpBackupError {
  readonly timeoutMs: number;

  constructor(where: string, what: string, timeoutMs: number) {
    super('failed', `the NBD server at ${where} did not answer within ${timeoutMs / 1000} s: ${what}`, {
      hint: 'the server or the storage behind it may be hanging',
    });
    this.timeoutMs = timeoutMs;
  }
}

/** What was refused: `export` and `context` are not there, the rest says itself. */
export type Refusal = 'export' | 'context' | 'tls' | 'unsupported' | 'other';

export class NbdRefused extends QmpBackupError {
  readonly refusal: Refusal;

  constructor(refusal: Refusal, message: string) {
    super('failed', message);
    this.refusal = refusal;
  }
}

/** The server's answer to one request. `errno` is its name where the protocol has one (`EIO`), else its number. */
export class NbdServerError extends QmpBackupError {
  readonly errno: string;

  constructor(what: string, errno: string, words: string) {
    super('failed', `the NBD server failed to ${what}: ${errno}${words === '' ? '' : ` (${words})`}`);
    this.errno = errno;
  }
}

export class NbdProtocolViolation extends QmpBackupError {
  constructor(message: string) {
    super('failed', `the NBD server broke the protocol: ${message}`);
  }
}

export class NbdRequestError extends QmpBackupError {
  constructor(message: string) {
    super('failed', message);
  }
}

export class NbdInterrupted extends QmpBackupError {
  constructor(where: string, reason: unknown) {
    super('interrupted', `the NBD connection to ${where} was interrupted: ${messageOf(reason)}`, { cause: reason });
  }
}

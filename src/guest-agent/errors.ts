/**
 * What can go wrong with a guest agent:
 *   QmpBackupError ─┬─ GuestAgentError   one request or the connection failed; `kind` says how
 *                   └─ NotThawed ── GuestNotThawed   nobody can say that the guest writes again; the hint says how to thaw by hand
 * Both travel between guard and parent as plain data.
 */
import { type ErrorCode, messageOf, NotThawed, QmpBackupError } from '../errors.js';
import type { Endpoint } from '../qmp/endpoint.js';

/**
 * `unreachable`: no connection · `silent`: connected, never answered · `timeout`: one answer is late · `refused`: the
 * agent said no, in its own words · `garbage`: an answer that makes no sense · `lost`: the connection ended ·
 * `no-freeze`: the agent cannot freeze · `already-frozen`: somebody else froze the guest.
 */
export const AGENT_ERROR_KINDS = [
  'unreachable',
  'silent',
  'timeout',
  'refused',
  'garbage',
  'lost',
  'no-freeze',
  'already-frozen',
] as const;

export type AgentErrorKind = (typeof AGENT_ERROR_KINDS)[number];

export class GuestAgentError extends QmpBackupError {
  readonly kind: AgentErrorKind;

  constructor(
    kind: AgentErrorKind,
    message: string,
    options: { readonly hint?: string | undefined; readonly cause?: unknown } = {},
  ) {
    const { hint, cause } = options;
    super(kind === 'unreachable' || kind === 'silent' || kind === 'lost' ? 'unreachable' : 'failed', message, {
      ...(hint === undefined ? {} : { hint }),
      ...(cause === undefined ? {} : { cause }),
    });
    this.kind = kind;
  }
}

/** As far as the agent can tell; the hint names its socket. */
export class GuestNotThawed extends NotThawed {
  constructor(endpoint: Endpoint, reason: unknown) {
    super(reason, thawAgentByHand(endpoint));
  }
}

/**
 * A shell line that thaws a guest without us. The pause shows the agent's answer: QEMU drops a client that has closed
 * its sending side.
 */
export function thawAgentByHand(endpoint: Endpoint): string {
  const address =
    endpoint.kind === 'unix'
      ? `UNIX-CONNECT:${endpoint.path}`
      : `TCP:${endpoint.host.includes(':') ? `[${endpoint.host}]` : endpoint.host}:${endpoint.port}`;
  const quoted = /^[\w./:@=+[\]-]+$/.test(address) ? address : `'${address.replaceAll("'", `'\\''`)}'`;
  return `(echo '{"execute":"guest-fsfreeze-thaw"}'; sleep 2) | socat - ${quoted}`;
}

/** An error as it goes over the pipe. */
export interface PlainError {
  readonly code: ErrorCode;
  readonly kind?: AgentErrorKind | undefined;
  readonly message: string;
  readonly hint?: string | undefined;
}

export function toPlainError(error: unknown): PlainError {
  if (!(error instanceof QmpBackupError)) return { code: 'failed', message: messageOf(error) };
  return {
    code: error.code,
    message: error.message,
    ...(error.hint === undefined ? {} : { hint: error.hint }),
    ...(error instanceof GuestAgentError ? { kind: error.kind } : {}),
  };
}

export function fromPlainError(plain: PlainError): QmpBackupError {
  const { code, kind, message, hint } = plain;
  if (kind !== undefined) return new GuestAgentError(kind, message, { hint });
  return new QmpBackupError(code, message, hint === undefined ? {} : { hint });
}

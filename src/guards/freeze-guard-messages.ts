/**
 * What the guard and its parent say to each other, one JSON line each, over the guard's stdin and stdout. Both ends are
 * of one build, so a line that does not fit is a fault, not a version to cope with. The end of stdin means release.
 */
import type { FreezeStatus } from '../guest-agent/client.js';
import { isObject } from '../guest-agent/dialogue.js';
import type { PlainError } from '../guest-agent/errors.js';
import type { Endpoint } from '../qmp/endpoint.js';
import { formatJsonLine, parseJsonLine } from '../qmp/json-lines.js';

export interface GuardLimits {
  /** How long the agent may take to freeze, in ms. */
  readonly freezeTimeoutMs: number;
  /** How long the guest may stay frozen after that, in ms, whatever the parent does. */
  readonly freezeLimitMs: number;
  /** How long to go on trying to thaw, in ms. */
  readonly thawTimeoutMs: number;
  /** For the connection and each short question, in ms. */
  readonly connectTimeoutMs: number;
}

export type ToGuard =
  | ({ readonly type: 'start'; readonly agent: Endpoint } & GuardLimits)
  | { readonly type: 'freeze' }
  | { readonly type: 'status' }
  /** Status, then thaw at once. */
  | { readonly type: 'finish' }
  | { readonly type: 'thaw' };

/** Times in ms since the freeze was requested. */
export interface FreezeTimeline {
  /** Missing if the agent did not answer in time. */
  readonly freezeAnsweredMs?: number | undefined;
  readonly thawRequestedMs: number;
  readonly thawAnsweredMs: number;
  /** When the agent itself said that the guest is thawed. */
  readonly confirmedMs: number;
}

/** Why the guard thawed. */
export type ThawCause = 'finish' | 'thaw' | 'freeze-failed' | 'limit' | 'parent-gone' | 'fault';

export type FromGuard =
  | { readonly type: 'ready'; readonly agentVersion: string }
  | { readonly type: 'not-ready'; readonly error: PlainError }
  | { readonly type: 'frozen'; readonly fileSystems: number; readonly tookMs: number }
  | { readonly type: 'status'; readonly status: FreezeStatus }
  | { readonly type: 'no-status'; readonly error: PlainError }
  /** The thaw has been requested. */
  | { readonly type: 'thawing' }
  | {
      readonly type: 'thawed';
      readonly cause: ThawCause;
      readonly statusBefore: FreezeStatus | 'unknown';
      readonly timeline: FreezeTimeline;
      readonly freezeError?: PlainError | undefined;
    }
  | { readonly type: 'not-thawed'; readonly cause: ThawCause; readonly error: PlainError };

const TO_GUARD: readonly string[] = ['start', 'freeze', 'status', 'finish', 'thaw'] satisfies ToGuard['type'][];
const FROM_GUARD: readonly string[] = [
  'ready',
  'not-ready',
  'frozen',
  'status',
  'no-status',
  'thawing',
  'thawed',
  'not-thawed',
] satisfies FromGuard['type'][];

export function formatMessage(message: ToGuard | FromGuard): string {
  return formatJsonLine(message);
}

export function parseToGuard(line: Buffer): ToGuard {
  return parse<ToGuard>(line, TO_GUARD);
}

export function parseFromGuard(line: Buffer): FromGuard {
  return parse<FromGuard>(line, FROM_GUARD);
}

function parse<Message>(line: Buffer, types: readonly string[]): Message {
  const value = parseJsonLine(line);
  if (isObject(value) && typeof value.type === 'string' && types.includes(value.type)) return value as Message;
  throw new Error(`not a message between guard and parent: ${JSON.stringify(value)}`);
}

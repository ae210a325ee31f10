/** What the freeze guard is told, and what it says. */
import * as v from 'valibot';
import type { FreezeStatus } from '../guest-agent/client.js';
import type { PlainError } from '../guest-agent/errors.js';
import { endpointSchema } from './messages.js';

export const freezeTask = v.object({
  agent: endpointSchema,
  /** How long the agent may take to freeze, in ms. */
  freezeTimeoutMs: v.optional(v.number(), 60_000),
  /** How long the guest may stay frozen after that, in ms, whatever the owner does. */
  freezeLimitMs: v.optional(v.number(), 10_000),
  /** How long to go on trying to thaw, in ms. */
  thawTimeoutMs: v.optional(v.number(), 30_000),
  /** For the connection and each short question, in ms. */
  connectTimeoutMs: v.optional(v.number(), 5_000),
});

export type FreezeGuardTask = Readonly<v.InferOutput<typeof freezeTask>>;

export type ToFreezeGuard =
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

export type FromFreezeGuard =
  | { readonly type: 'ready'; readonly agentVersion: string }
  | { readonly type: 'not-ready'; readonly error: PlainError }
  | { readonly type: 'frozen'; readonly fileSystems: number; readonly tookMs: number }
  | { readonly type: 'status'; readonly status: FreezeStatus }
  | { readonly type: 'no-status'; readonly error: PlainError }
  /** The thaw has been requested. */
  | { readonly type: 'thawing' }
  | ThawedMessage
  | { readonly type: 'not-thawed'; readonly cause: ThawCause; readonly error: PlainError };

export interface ThawedMessage {
  readonly type: 'thawed';
  readonly cause: ThawCause;
  readonly statusBefore: FreezeStatus | 'unknown';
  readonly timeline: FreezeTimeline;
  readonly freezeError?: PlainError | undefined;
}

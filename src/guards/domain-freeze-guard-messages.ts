import * as v from 'valibot';

export const domainFreezeTask = v.object({
  /** URI for virsh; null is its default. */
  connect: v.nullable(v.string()),
  uuid: v.string(),
  name: v.string(),
  /** How long the agent may take to freeze, in ms. */
  freezeTimeoutMs: v.number(),
  /** How long the guest may stay frozen after that, in ms, whatever the owner does. */
  freezeLimitMs: v.number(),
  /** How long to try to thaw before that is told, in ms: the guard goes on by itself after that. */
  thawTimeoutMs: v.number(),
});

export type DomainFreezeTask = Readonly<v.InferOutput<typeof domainFreezeTask>>;

export type ToDomainFreezeGuard = { readonly type: 'freeze' } | { readonly type: 'thaw' };

export type FromDomainFreezeGuard =
  | { readonly type: 'frozen'; readonly fileSystems: number }
  /** Nothing is frozen by us (any more). */
  | { readonly type: 'not-frozen'; readonly why: string }
  | DomainThawedMessage
  | { readonly type: 'not-thawed'; readonly why: string };

export interface DomainThawedMessage {
  readonly type: 'thawed';
  readonly cause: DomainThawCause;
  /** File systems that were still frozen just before. */
  readonly fileSystems: number;
  /** From the answer to the freeze to the request to thaw, in ms. */
  readonly frozenMs: number;
}

/** Because its owner said so, because the limit was over, or because nobody is there any more. */
export type DomainThawCause = 'asked' | 'limit' | 'alone';

import * as v from 'valibot';

/** What every guard of a domain's copy is told. */
export const guardedDomain = v.object({
  /** URI for virsh; null is its default. */
  connect: v.nullable(v.string()),
  uuid: v.string(),
  /** Whether the guest ran before, and so goes on where a full file system has paused it. */
  resumes: v.boolean(),
  /** As of `LockOwner`. */
  owner: v.object({ pid: v.number(), startTime: v.string() }),
});

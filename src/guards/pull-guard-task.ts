import * as v from 'valibot';

export const pullTask = v.object({
  /** URI for virsh; null is its default. */
  connect: v.nullable(v.string()),
  uuid: v.string(),
  /** Path of the job's NBD server, by which it is known. */
  socket: v.string(),
  /** Whether the guest ran before, and so goes on where a full scratch image has paused it. */
  resumes: v.boolean(),
  /** As of `LockOwner`. */
  owner: v.object({ pid: v.number(), startTime: v.string() }),
});

export type PullGuardTask = Readonly<v.InferOutput<typeof pullTask>>;

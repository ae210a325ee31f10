import { join } from 'node:path';
import * as v from 'valibot';
import { historyFolder } from '../run/history.js';
import { readRemembered, writeRemembered } from '../run/remembered.js';

/**
 * What each notifier of a configuration was told, `notified.json` beside the history. Written once a message was delivered: one that
 * was not is told by the next run. It has no secret in it.
 */
const NOTIFIED_SCHEMA = 1;

const trouble = { vm: v.nullable(v.string()), since: v.string(), why: v.string() };

const notifier = v.object({
  name: v.string(),
  events: v.pipe(v.array(v.object({ ...trouble, toldAt: v.nullable(v.string()) })), v.readonly()),
  digestAt: v.nullable(v.string()),
  news: v.pipe(v.array(v.object({ ...trouble, kind: v.picklist(['failed', 'recovered']) })), v.readonly()),
  /** Since when it cannot be reached, and why; null where the last attempt succeeded. */
  broken: v.nullable(v.object({ since: v.string(), why: v.string() })),
});

const notified = v.object({
  schema: v.literal(NOTIFIED_SCHEMA),
  notifiers: v.pipe(v.array(notifier), v.readonly()),
  /** Since when each run has found another one at work; null where the last did not. */
  lockedOutSince: v.nullable(v.string()),
});

export type NotifierMemory = v.InferOutput<typeof notifier>;
export type Notified = Omit<v.InferOutput<typeof notified>, 'schema'>;

const NOTHING: Notified = { notifiers: [], lockedOutSince: null };

function notifiedPath(folder: string): string {
  return join(folder, 'notified.json');
}

export interface KnownNotified {
  readonly notified: Notified;
  /** Why nothing is known although there is a file; null where that is not so. */
  readonly lost: string | null;
}

export async function readNotified(config: string, folder: string = historyFolder(config)): Promise<KnownNotified> {
  const { value, lost } = await readRemembered(notifiedPath(folder), notified);
  return { notified: value ?? NOTHING, lost };
}

/** Durably. For who holds the lock on it. */
export async function writeNotified(config: string, { notifiers, lockedOutSince }: Notified): Promise<void> {
  const text = `${JSON.stringify({ schema: NOTIFIED_SCHEMA, notifiers, lockedOutSince }, null, 1)}\n`;
  await writeRemembered(notifiedPath(historyFolder(config)), text);
}

/** Of those that there are: who could not be told, since when and why. */
export function brokenNotifiers(
  { notifiers }: Notified,
  named: readonly { readonly name: string }[],
): readonly string[] {
  return notifiers.flatMap(({ name, broken }) =>
    broken !== null && named.some((each) => each.name === name)
      ? [`${name} could not be told since ${broken.since}: ${broken.why}`]
      : [],
  );
}

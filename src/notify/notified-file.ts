import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import * as v from 'valibot';
import { QmpBackupError } from '../errors.js';
import { replaceFile } from '../host/durable.js';
import { fileError } from '../host/file-errors.js';
import { readJsonFile } from '../host/plain-file.js';
import { historyFolder } from '../run/history.js';

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

/** Bytes. */
const LIMIT = 64 * 1024 * 1024;

function notifiedPath(config: string): string {
  return join(historyFolder(config), 'notified.json');
}

export interface KnownNotified {
  readonly notified: Notified;
  /** Why nothing is known although there is a file; null where that is not so. */
  readonly lost: string | null;
}

export async function readNotified(config: string): Promise<KnownNotified> {
  const path = notifiedPath(config);
  try {
    const value = await readJsonFile(path, LIMIT, 'It is begun anew.');
    if (value === undefined) return { notified: NOTHING, lost: null };
    const result = v.safeParse(notified, value);
    if (result.success) return { notified: result.output, lost: null };
    return { notified: NOTHING, lost: `${path} is damaged, or of another version` };
  } catch (error) {
    if (!(error instanceof QmpBackupError)) throw error;
    return { notified: NOTHING, lost: error.message };
  }
}

/** Durably. For who holds the lock on it. */
export async function writeNotified(config: string, { notifiers, lockedOutSince }: Notified): Promise<void> {
  const folder = historyFolder(config);
  try {
    await mkdir(folder, { recursive: true, mode: 0o700 });
  } catch (error) {
    throw fileError('make', folder, error);
  }
  const text = `${JSON.stringify({ schema: NOTIFIED_SCHEMA, notifiers, lockedOutSince }, null, 1)}\n`;
  await replaceFile(notifiedPath(config), text, { mode: 0o600 });
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

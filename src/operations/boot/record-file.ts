import { join } from 'node:path';
import * as v from 'valibot';
import { QmpBackupError } from '../../errors.js';
import { replaceFile } from '../../host/durable.js';
import { type LockOwner, parseOwner } from '../../host/lock-owner.js';
import { readJsonFile } from '../../host/plain-file.js';

/** What runs from the overlays in a folder stands in a file there, for whoever goes on with it: of a machine, or of a domain. */
const LIMIT = 4 * 1024 * 1024;

/** Of both. */
export const COMMON = {
  schema: v.literal(1),
  /** Absolute path. */
  target: v.string(),
  targetId: v.string(),
  point: v.object({ id: v.string(), name: v.string() }),
};

/** A process, by the rules of locks. */
export const ownerSchema = v.custom<LockOwner>((value) => parseOwner(JSON.stringify(value)) !== undefined);

/**
 * @param unless when the file may be removed, for the hint
 * @throws QmpBackupError `unsafe` where there is something else by that name
 */
export async function readRecord<Schema extends v.GenericSchema>(
  path: string,
  schema: Schema,
  unless: string,
): Promise<v.InferOutput<Schema> | undefined> {
  const hint = `Choose another folder, or remove that file if ${unless}.`;
  const value = await readJsonFile(path, LIMIT, hint);
  if (value === undefined) return undefined;
  const parsed = v.safeParse(schema, value);
  if (parsed.success) return parsed.output;
  throw new QmpBackupError('unsafe', `${path} is not understood by this version`, { hint });
}

export async function writeRecord(folder: string, name: string, record: object): Promise<void> {
  const text = JSON.stringify({ schema: 1, ...record }, null, 1);
  await replaceFile(join(folder, name), `${text}\n`, { mode: 0o600 });
}

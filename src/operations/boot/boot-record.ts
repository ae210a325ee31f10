import { join } from 'node:path';
import * as v from 'valibot';
import { QmpBackupError } from '../../errors.js';
import { replaceFile } from '../../host/durable.js';
import { inspectProcess, judgeOwner, type LockOwner, parseOwner, thisProcess } from '../../host/lock-owner.js';
import { readJsonFile } from '../../host/plain-file.js';

/** `boot.json` in the folder of the overlays: the machine that was last started from them, for whoever goes on with it. */
const NAME = 'boot.json';
const LIMIT = 4 * 1024 * 1024;

const schema = v.object({
  schema: v.literal(1),
  /** Absolute path. */
  target: v.string(),
  targetId: v.string(),
  point: v.object({ id: v.string(), name: v.string() }),
  /** QEMU, by the rules of locks. */
  owner: v.custom<LockOwner>((value) => parseOwner(JSON.stringify(value)) !== undefined),
  program: v.string(),
  args: v.array(v.string()),
  hasAgent: v.boolean(),
  disks: v.array(
    v.object({
      disk: v.string(),
      /** Absolute path of the overlay. */
      image: v.string(),
      /** Names of its node and of that below it. */
      top: v.string(),
      below: v.string(),
    }),
  ),
  /** Folders of the daemons that hold the point open. */
  daemons: v.array(v.string()),
});

export type BootRecord = v.InferOutput<typeof schema>;

/** @throws QmpBackupError `unsafe` where there is something else by that name */
export async function readBootRecord(folder: string): Promise<BootRecord | undefined> {
  const path = join(folder, NAME);
  const hint = 'Choose another folder, or remove that file if no VM runs from this folder.';
  const value = await readJsonFile(path, LIMIT, hint);
  if (value === undefined) return undefined;
  const parsed = v.safeParse(schema, value);
  if (parsed.success) return parsed.output;
  throw new QmpBackupError('unsafe', `${path} is not understood by this version`, { hint });
}

export async function writeBootRecord(folder: string, record: Omit<BootRecord, 'schema'>): Promise<void> {
  const text = JSON.stringify({ schema: 1, ...record }, null, 1);
  await replaceFile(join(folder, NAME), `${text}\n`, { mode: 0o600 });
}

/**
 * Whether the VM of the record runs.
 *
 * @throws QmpBackupError `locked` where it is on another host, and nobody here can see it
 */
export function isRunning({ owner }: BootRecord, folder: string, breakLock: boolean): boolean {
  const fate = judgeOwner(owner, thisProcess('look'), inspectProcess);
  if (fate !== 'elsewhere' || breakLock) return fate === 'alive';
  throw new QmpBackupError('locked', `a VM was started from ${folder} on ${owner.host}, and may still run there`, {
    hint: 'If it has surely ended, run it again with --break-lock.',
  });
}

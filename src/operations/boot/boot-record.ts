import { join } from 'node:path';
import * as v from 'valibot';
import { QmpBackupError } from '../../errors.js';
import { inspectProcess, judgeOwner, thisProcess } from '../../host/lock-owner.js';
import { COMMON, ownerSchema, readRecord, writeRecord } from './record-file.js';

/** `boot.json` in the folder of the overlays: the machine that was last started from them, for whoever goes on with it. */
const NAME = 'boot.json';

const schema = v.object({
  ...COMMON,
  /** QEMU, by the rules of locks. */
  owner: ownerSchema,
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
export function readBootRecord(folder: string): Promise<BootRecord | undefined> {
  return readRecord(join(folder, NAME), schema, 'no VM runs from this folder');
}

export function writeBootRecord(folder: string, record: Omit<BootRecord, 'schema'>): Promise<void> {
  return writeRecord(folder, NAME, record);
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

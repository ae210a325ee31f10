import { join } from 'node:path';
import * as v from 'valibot';
import { QmpBackupError } from '../../errors.js';
import { replaceFile } from '../../host/durable.js';
import { type LockOwner, parseOwner } from '../../host/lock-owner.js';
import { readJsonFile } from '../../host/plain-file.js';

/** `domain.json` in the folder of the overlays: the libvirt domain that has them as its disks, for whoever goes on with it. */
const NAME = 'domain.json';
const LIMIT = 4 * 1024 * 1024;

const schema = v.object({
  schema: v.literal(1),
  /** Absolute path. */
  target: v.string(),
  targetId: v.string(),
  point: v.object({ id: v.string(), name: v.string() }),
  domain: v.object({ uuid: v.string(), name: v.string() }),
  /** URI of its libvirt; null is virsh's own default. */
  connect: v.nullable(v.string()),
  /** It shall start with the host, once it stands alone. */
  autostart: v.boolean(),
  disks: v.array(
    v.object({
      disk: v.string(),
      /** `vda`. */
      target: v.string(),
      /** Absolute path of the overlay. */
      image: v.string(),
    }),
  ),
  /** What the disks lean on; null where they lean on nothing. */
  held: v.nullable(
    v.object({
      /** The process that keeps the daemons, by the rules of locks. */
      owner: v.custom<LockOwner>((value) => parseOwner(JSON.stringify(value)) !== undefined),
      /** Folders of the daemons. */
      daemons: v.array(v.string()),
    }),
  ),
});

export type DomainRecord = v.InferOutput<typeof schema>;

/** @throws QmpBackupError `unsafe` where there is something else by that name */
export async function readDomainRecord(folder: string): Promise<DomainRecord | undefined> {
  const path = join(folder, NAME);
  const hint = 'Choose another folder, or remove that file if no domain has its disks in this folder.';
  const value = await readJsonFile(path, LIMIT, hint);
  if (value === undefined) return undefined;
  const parsed = v.safeParse(schema, value);
  if (parsed.success) return parsed.output;
  throw new QmpBackupError('unsafe', `${path} is not understood by this version`, { hint });
}

export async function writeDomainRecord(folder: string, record: Omit<DomainRecord, 'schema'>): Promise<void> {
  const text = JSON.stringify({ schema: 1, ...record }, null, 1);
  await replaceFile(join(folder, NAME), `${text}\n`, { mode: 0o600 });
}

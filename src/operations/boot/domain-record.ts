import { join } from 'node:path';
import * as v from 'valibot';
import { COMMON, ownerSchema, readRecord, writeRecord } from './record-file.js';

/** `domain.json` in the folder of the overlays: the libvirt domain that has them as its disks, for whoever goes on with it. */
const NAME = 'domain.json';

const schema = v.object({
  ...COMMON,
  domain: v.object({ uuid: v.string(), name: v.string() }),
  /** URI of its libvirt; null is virsh's own default. */
  connect: v.nullable(v.string()),
  /** It shall start with the host, once it stands alone. */
  autostart: v.boolean(),
  /** It was defined with the links of its network cards down, or without such cards; unknown in records of before. */
  unlinked: v.optional(v.boolean()),
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
      owner: ownerSchema,
      /** Folders of the daemons. */
      daemons: v.array(v.string()),
    }),
  ),
});

export type DomainRecord = v.InferOutput<typeof schema>;

/** @throws QmpBackupError `unsafe` where there is something else by that name */
export function readDomainRecord(folder: string): Promise<DomainRecord | undefined> {
  return readRecord(join(folder, NAME), schema, 'no domain has its disks in this folder');
}

export function writeDomainRecord(folder: string, record: Omit<DomainRecord, 'schema'>): Promise<void> {
  return writeRecord(folder, NAME, record);
}

import type { QmpClient } from '../qmp/client.js';
import { run } from '../qmp/commands.js';
import type { SchemaEntry } from '../qmp/replies.js';

/**
 * What the running QEMU can do, by its own schema and never by its version: distributions add to old versions and
 * leave out of new ones. QEMU numbers its types anew in each build, so that they are found from a command's name down.
 */
export interface QemuFeatures {
  readonly driveBackup: CbwOptions;
  readonly blockdevBackup: CbwOptions;
  /** The filter of that name in `blockdev-add`; null where QEMU does not know it. */
  readonly copyBeforeWrite: CbwOptions | null;
  /** Whether `blockdev-add` knows the driver `snapshot-access`. */
  readonly snapshotAccess: boolean;
  /** The compression type to write into a qcow2 image; null is QEMU's default, zlib. */
  readonly compressionType: 'zstd' | null;
}

/** Whether a command or driver lets one say what happens when the copy before a guest's write fails or takes long. */
export interface CbwOptions {
  readonly onCbwError: boolean;
  readonly cbwTimeout: boolean;
}

/** One query of about 200 KB and 55 ms: for where a run needs to know, not for each run. */
export async function readFeatures(client: Pick<QmpClient, 'execute'>): Promise<QemuFeatures> {
  return featuresOf(await run(client, 'query-qmp-schema'));
}

export function featuresOf(schema: readonly SchemaEntry[]): QemuFeatures {
  const entries = new Map(schema.map((entry) => [entry.name, entry]));
  const typed: Find = (name) => (name === undefined ? undefined : entries.get(name));
  const argumentsOf: Find = (command) => typed(typed(command)?.['arg-type']);

  const filter = variantOf(typed, argumentsOf('blockdev-add'), 'copy-before-write');
  const createOptions = typed(memberOf(argumentsOf('blockdev-create'), 'options')?.type);
  const createQcow2 = variantOf(typed, createOptions, 'qcow2');
  const compressionTypes = typed(memberOf(createQcow2, 'compression-type')?.type);
  return {
    driveBackup: cbwOptionsOf(argumentsOf('drive-backup')),
    blockdevBackup: cbwOptionsOf(argumentsOf('blockdev-backup')),
    copyBeforeWrite: filter ? cbwOptionsOf(filter) : null,
    snapshotAccess: variantOf(typed, argumentsOf('blockdev-add'), 'snapshot-access') !== undefined,
    compressionType: memberOf(compressionTypes, 'zstd') ? 'zstd' : null,
  };
}

type Find = (name: string | undefined) => SchemaEntry | undefined;

function cbwOptionsOf(entry: SchemaEntry | undefined): CbwOptions {
  return {
    onCbwError: memberOf(entry, 'on-cbw-error') !== undefined,
    cbwTimeout: memberOf(entry, 'cbw-timeout') !== undefined,
  };
}

function variantOf(typed: Find, entry: SchemaEntry | undefined, name: string): SchemaEntry | undefined {
  return typed(entry?.variants?.find((variant) => variant.case === name)?.type);
}

function memberOf(entry: SchemaEntry | undefined, name: string): SchemaMember | undefined {
  return entry?.members?.find((member) => member.name === name);
}

type SchemaMember = NonNullable<SchemaEntry['members']>[number];

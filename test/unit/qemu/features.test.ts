import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as v from 'valibot';
import { describe, expect, it } from 'vitest';
import { featuresOf, readFeatures } from '../../../src/qemu/features.js';
import { type SchemaEntry, schemaReply } from '../../../src/qmp/replies.js';

/** Excerpts of what these builds of Debian answered: the four commands and the types that the features hang on. */
function captured(version: string): SchemaEntry[] {
  const path = join(import.meta.dirname, '../../golden', `qmp-schema-${version}.json`);
  return v.parse(schemaReply, JSON.parse(readFileSync(path, 'utf8')));
}

type Change = (entry: SchemaEntry) => SchemaEntry;
const changed = (schema: readonly SchemaEntry[], name: string | undefined, change: Change): SchemaEntry[] =>
  schema.map((entry) => (entry.name === name ? change(entry) : entry));
const withMember =
  (name: string): Change =>
  (entry) => ({ ...entry, members: [...(entry.members ?? []), { name, type: 'int' }] });
const argumentsOf = (schema: readonly SchemaEntry[], command: string): string | undefined =>
  schema.find(({ name }) => name === command)?.['arg-type'];

describe('what a QEMU can do, by its schema', () => {
  it.each(['7.2.22', '10.0.2'])('is told of %s: fleecing yes, on-cbw-error of the backup job itself no', (version) => {
    expect(featuresOf(captured(version))).toEqual({
      driveBackup: { onCbwError: false, cbwTimeout: false },
      blockdevBackup: { onCbwError: false, cbwTimeout: false },
      copyBeforeWrite: { onCbwError: true, cbwTimeout: true },
      snapshotAccess: true,
      compressionType: 'zstd',
    });
  });

  it('tells each option of each command by its own name', () => {
    const schema = captured('10.0.2');
    const drive = changed(schema, argumentsOf(schema, 'drive-backup'), withMember('on-cbw-error'));
    expect(featuresOf(drive).driveBackup).toEqual({ onCbwError: true, cbwTimeout: false });
    expect(featuresOf(drive).blockdevBackup).toEqual({ onCbwError: false, cbwTimeout: false });
    const blockdev = changed(schema, argumentsOf(schema, 'blockdev-backup'), withMember('cbw-timeout'));
    expect(featuresOf(blockdev).driveBackup).toEqual({ onCbwError: false, cbwTimeout: false });
    expect(featuresOf(blockdev).blockdevBackup).toEqual({ onCbwError: false, cbwTimeout: true });
  });

  it('follows the numbers of the types, which change with each build', () => {
    const numbers = new Map(captured('7.2.22').map(({ name }, at) => [name, /^\d+$/.test(name) ? `t${at}` : name]));
    const renumbered = v.parse(
      schemaReply,
      JSON.parse(
        JSON.stringify(captured('7.2.22'), (key, value: unknown) =>
          ['name', 'type', 'arg-type'].includes(key) && typeof value === 'string'
            ? (numbers.get(value) ?? value)
            : value,
        ),
      ),
    );
    expect(renumbered).not.toEqual(captured('7.2.22'));
    expect(featuresOf(renumbered)).toEqual(featuresOf(captured('7.2.22')));
  });

  it('knows a QEMU without the filter, or with one that has no say about failures', () => {
    const schema = captured('7.2.22');
    const none = changed(schema, argumentsOf(schema, 'blockdev-add'), (entry) => ({ ...entry, variants: [] }));
    expect(featuresOf(none)).toMatchObject({ copyBeforeWrite: null, snapshotAccess: false });
    const old = schema.map((entry) => ({
      ...entry,
      ...(entry.members && { members: entry.members.filter(({ name }) => !name?.includes('cbw')) }),
    }));
    expect(featuresOf(old).copyBeforeWrite).toEqual({ onCbwError: false, cbwTimeout: false });
  });

  it('chooses zlib where qcow2 images cannot have zstd, though other types name it', () => {
    const schema = captured('7.2.22').map((entry) =>
      entry['meta-type'] === 'enum' && entry.members
        ? { ...entry, members: entry.members.filter(({ name }) => name !== 'zstd') }
        : entry,
    );
    const multifd = { name: 'multifd', 'meta-type': 'enum', members: [{ name: 'none' }, { name: 'zstd' }] };
    expect(featuresOf([...schema, multifd]).compressionType).toBeNull();
  });

  it('is nothing at all for a QEMU whose commands are unknown', () => {
    expect(featuresOf([])).toEqual({
      driveBackup: { onCbwError: false, cbwTimeout: false },
      blockdevBackup: { onCbwError: false, cbwTimeout: false },
      copyBeforeWrite: null,
      snapshotAccess: false,
      compressionType: null,
    });
  });

  it('is asked for by one query', async () => {
    const asked: string[] = [];
    const client = {
      execute: (name: string): Promise<unknown> => {
        asked.push(name);
        return Promise.resolve(captured('10.0.2'));
      },
    };
    expect(await readFeatures(client)).toEqual(featuresOf(captured('10.0.2')));
    expect(asked).toEqual(['query-qmp-schema']);
  });
});

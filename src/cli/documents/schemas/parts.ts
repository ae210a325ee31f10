import * as v from 'valibot';
import { WARNING_CODES } from '../../../core/warning.js';
import { JSON_SCHEMA } from '../envelope.js';

/**
 * What the schemas of all documents are made of: each with the words that tell a reader of the JSON Schema what it is.
 * Only tests and the generator load these schemas; the program takes their types alone.
 */
export function text(what: string) {
  return v.pipe(v.string(), v.description(what));
}

export function textOrNull(what: string) {
  return v.pipe(v.nullable(v.string()), v.description(what));
}

export function count(what: string) {
  return v.pipe(v.number(), v.integer(), v.minValue(0), v.description(what));
}

export function countOrNull(what: string) {
  return v.pipe(v.nullable(v.pipe(v.number(), v.integer(), v.minValue(0))), v.description(what));
}

export function number(what: string) {
  return v.pipe(v.number(), v.description(what));
}

export function numberOrNull(what: string) {
  return v.pipe(v.nullable(v.number()), v.description(what));
}

export function flag(what: string) {
  return v.pipe(v.boolean(), v.description(what));
}

export function oneOf<const Names extends readonly string[]>(names: Names, what: string) {
  return v.pipe(v.picklist(names), v.description(what));
}

export function texts(what: string) {
  return v.pipe(v.array(v.string()), v.readonly(), v.description(what));
}

export function object<const Entries extends v.ObjectEntries>(entries: Entries, what: string) {
  return v.pipe(v.strictObject(entries), v.readonly(), v.description(what));
}

export function listOf<const Item extends v.GenericSchema>(item: Item, what: string) {
  return v.pipe(v.array(item), v.readonly(), v.description(what));
}

/** A whole document: what all have, and what this one has. */
export function document<const Command extends string, const Entries extends v.ObjectEntries>(
  command: Command,
  entries: Entries,
  what: string,
) {
  return v.pipe(
    v.strictObject({
      schema: v.pipe(v.literal(JSON_SCHEMA), v.description('Version of the documents of all commands')),
      command: v.pipe(v.literal(command), v.description('The command that was run')),
      ...entries,
    }),
    v.readonly(),
    v.description(what),
  );
}

export const level = oneOf(['full', 'inc', 'diff', 'copy'], 'How much of the disk: all of it, or what has changed');

export const failureSchema = object(
  { failed: text('What could not be found out, and why'), hint: textOrNull('What to do about it') },
  'What could not be found out',
);

export const identitySchema = object(
  {
    uuid: textOrNull('UUID of the VM'),
    name: textOrNull('Name of the VM'),
    label: textOrNull('What --vm-name has called it'),
  },
  'Which VM it is',
);

export const machineSchema = object(
  {
    name: textOrNull('Name of the VM'),
    uuid: textOrNull('UUID of the VM'),
    qemuVersion: text('Version of QEMU'),
    type: textOrNull('Machine type'),
    memory: countOrNull('Bytes of memory'),
    cpus: countOrNull('Number of virtual CPUs'),
  },
  'The virtual machine',
);

export const leftOutEntries = {
  name: text('The disk or device'),
  reason: text('Why, in words'),
  kind: oneOf(
    ['no-disk', 'request', 'rule', 'failed'],
    'no-disk: holds no data of the guest; request: by an option; rule: by a rule of this program; failed: it could not be copied',
  ),
};

export const leftOutSchema = object(leftOutEntries, 'A disk or device that is left out');

export const lackedDiskSchema = object(
  {
    disk: text('The name it was left out under'),
    reason: text('Why, in words'),
    kind: oneOf(['rule', 'failed', 'request'], 'By a rule of this program, because its copy failed, or by an option'),
  },
  'A writable disk that the VM had and the point does not have',
);

const warningCodes = Object.keys(WARNING_CODES) as readonly (keyof typeof WARNING_CODES)[];

export const warningSchema = object(
  { code: oneOf(warningCodes, 'What kind of warning; see docs/json.md'), text: text('In words, which may change') },
  'A warning',
);

export function warnings(what = 'All that was warned of') {
  return listOf(warningSchema, what);
}

export type FailurePart = v.InferOutput<typeof failureSchema>;

export type IdentityPart = v.InferOutput<typeof identitySchema>;

export type MachinePart = v.InferOutput<typeof machineSchema>;

export type LeftOutPart = v.InferOutput<typeof leftOutSchema>;

export type WarningPart = v.InferOutput<typeof warningSchema>;

export type LackedDiskPart = v.InferOutput<typeof lackedDiskSchema>;

import * as v from 'valibot';
import { count, document, listOf, object, oneOf, text, textOrNull, texts, warnings } from './parts.js';

export const configCheckDocumentSchema = document(
  'config-check',
  {
    config: text('Absolute path of the configuration'),
    vms: listOf(
      object(
        {
          vm: text('Name of the VM in the configuration'),
          socket: textOrNull('Its monitor, or null'),
          domain: textOrNull('Its libvirt domain, or null'),
          target: text('Its target'),
          line: count('Line that names it, or the entry of discover that found it'),
        },
        'A VM',
      ),
      'The VMs that it names, and those that discover finds',
    ),
    notifiers: listOf(
      object(
        {
          name: text('Its name'),
          kind: oneOf(['mail', 'webhook', 'ping'], 'How it is told'),
          on: texts('What it is told of; a dead-man switch hears of each run'),
          secrets: listOf(
            object(
              { key: text('The key'), from: text('Where the secret comes from, in words') },
              'A secret, which is not shown',
            ),
            'Its secrets',
          ),
          line: count('Line that names it'),
        },
        'A notifier',
      ),
      'Who hears of a run',
    ),
    warnings: warnings(),
  },
  'The answer of `qmpbackup config check`',
);

export type ConfigCheckDocument = v.InferOutput<typeof configCheckDocumentSchema>;

const value = v.pipe(
  v.nullable(
    v.union([
      v.string(),
      v.number(),
      v.boolean(),
      v.pipe(v.array(v.string()), v.readonly()),
      v.record(v.string(), v.string()),
    ]),
  ),
  v.description('As it was given, or as it is built in; null where there is none'),
);

export const configShowDocumentSchema = document(
  'config-show',
  {
    config: text('Absolute path of the configuration'),
    vm: text('Name of the VM in the configuration'),
    settings: listOf(
      object(
        {
          key: text('The key, with its section: `keep.daily`'),
          value,
          from: oneOf(['vms', 'discover', 'defaults', 'built in'], 'Where it comes from'),
          line: v.pipe(v.nullable(v.number()), v.description('Line of the configuration; null where it is built in')),
        },
        'A value in force',
      ),
      'All values',
    ),
    warnings: warnings(),
  },
  'The answer of `qmpbackup config show`',
);

export type ConfigShowDocument = v.InferOutput<typeof configShowDocumentSchema>;

export const configExampleDocumentSchema = document(
  'config-example',
  { example: text('A configuration in YAML'), warnings: warnings() },
  'The answer of `qmpbackup config example`',
);

export type ConfigExampleDocument = v.InferOutput<typeof configExampleDocumentSchema>;

import * as v from 'valibot';
import {
  count,
  document,
  flag,
  listOf,
  number,
  numberOrNull,
  object,
  oneOf,
  text,
  textOrNull,
  texts,
  warnings,
} from './parts.js';

const result = oneOf(
  ['ok', 'warnings', 'failed', 'skipped'],
  'How it went; skipped: left out, as by if-off, or because there was nothing to do it with',
);

const stepSchema = object(
  {
    verb: oneOf(
      ['backup', 'prune', 'verify', 'boot', 'before-hook', 'after-hook', 'on-error-hook'],
      'What was done; a hook is a command of the configuration',
    ),
    at: text('When it was begun, ISO 8601'),
    durationMs: number('Milliseconds that it took'),
    exitCode: count('Exit code of the program'),
    result,
    why: textOrNull('What failed and why, what was found, or why it was left out; null where it is simply done'),
    hint: textOrNull('What to do next, or null'),
    warnings: texts('What was warned of'),
    summary: textOrNull('What was done, or would be, in words; null where it failed'),
  },
  'One step of a VM',
);

export const pointMadeSchema = v.nullable(
  object(
    {
      at: text('When its backup was begun, ISO 8601'),
      name: text('The point: `CHAIN:N`, or the id of a copy'),
      level: text('full, inc, diff or copy'),
      bytes: count('Bytes that were copied'),
      durationMs: number('Milliseconds that the backup took'),
      frozenMs: numberOrNull('Milliseconds that the guest was frozen; null where it was not'),
      pausedMs: numberOrNull('Milliseconds that the VM stood still for fleecing; null where it did not'),
    },
    'A backup',
  ),
);

export const vmRunSchema = object(
  {
    at: text('When this VM was begun, ISO 8601'),
    endedAt: text('When it was done, ISO 8601'),
    result,
    steps: listOf(stepSchema, 'What was done, in this order'),
  },
  'A run of one VM',
);

export const notificationSchema = object(
  {
    notifier: text('Its name'),
    kind: oneOf(['mail', 'webhook', 'ping'], 'How it is told'),
    what: listOf(
      oneOf(
        ['failure', 'reminder', 'recovery', 'digest', 'always', 'start', 'success', 'fail', 'test'],
        'Something to tell, or the state that a dead-man switch is told',
      ),
      'What there was to tell',
    ),
    failed: textOrNull('Why it could not be told, in words; null where it was'),
  },
  'What one notifier was told',
);

export const runDocumentSchema = document(
  'run',
  {
    config: text('Absolute path of the configuration'),
    dryRun: flag('Nothing was changed'),
    vms: listOf(
      object(
        {
          vm: text('Name of the VM in the configuration'),
          target: text('Its target'),
          run: vmRunSchema,
          backup: v.pipe(
            pointMadeSchema,
            v.description('Its last backup that succeeded, as far as is remembered; null: none'),
          ),
          failingSince: textOrNull(
            'Since when it fails, ISO 8601; null where all that had failed was done again, and went well',
          ),
        },
        'A VM',
      ),
      'The VMs that were begun, in the order in which they ended',
    ),
    notBegun: texts('Names of VMs that were not begun'),
    notifications: listOf(notificationSchema, 'Who was told what; not those for whom there was nothing to tell'),
    warnings: warnings(),
  },
  'The answer of `qmpbackup run`',
);

export type RunDocument = v.InferOutput<typeof runDocumentSchema>;

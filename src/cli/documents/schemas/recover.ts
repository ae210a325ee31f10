import * as v from 'valibot';
import { document, flag, listOf, object, text, texts, warnings } from './parts.js';
import { repairSchema } from './repair.js';

export const recoverDocumentSchema = document(
  'recover',
  {
    targets: listOf(
      object(
        {
          target: text('Absolute path of the target'),
          run: v.pipe(
            v.nullable(
              object(
                {
                  what: text('What kind of run it was'),
                  startedAt: text('ISO 8601, UTC'),
                  sealed: flag('It died after its point had been sealed, which counts'),
                },
                'The run that died',
              ),
            ),
            v.description('The run that died; null where no journal was found'),
          ),
          actions: listOf(repairSchema, 'What was repaired; with --dry-run what would be'),
          left: texts('What is left because the VM was not asked, in words'),
        },
        'A target',
      ),
      'Each target that was looked at',
    ),
    vm: listOf(repairSchema, 'What was ended in QEMU where no target is concerned'),
    dryRun: flag('Nothing was changed'),
    warnings: warnings(),
  },
  'The answer of `qmpbackup recover`',
);

export type RecoverDocument = v.InferOutput<typeof recoverDocumentSchema>;

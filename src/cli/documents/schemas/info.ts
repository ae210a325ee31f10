import type * as v from 'valibot';
import { document, oneOf, textOrNull, texts } from './parts.js';
import { vmSchema } from './vm.js';

export const infoDocumentSchema = document(
  'info',
  {
    show: oneOf(['blockdev', 'bitmaps', 'jobs'], 'What was asked for; the document always has all'),
    vm: vmSchema,
    tracked: texts('Disks whose bitmaps keep QEMU from going back to an internal snapshot'),
    beside: texts('What belongs to the machine and is in no point, in words'),
    elsewhere: textOrNull('Why the images were not looked at, or null'),
  },
  'The answer of `qmpbackup info`',
);

export type InfoDocument = v.InferOutput<typeof infoDocumentSchema>;

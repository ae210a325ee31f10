import * as v from 'valibot';
import { document, flag, listOf, numberOrNull, object, oneOf, text, textOrNull, texts, warnings } from './parts.js';

export const bootDocumentSchema = document(
  'boot',
  {
    target: text('Absolute path of the target'),
    folder: text('Absolute path of the folder with the overlays'),
    point: text('The point that was started, in words'),
    state: oneOf(['started', 'already-running'], 'Whether this run has started it'),
    pid: numberOrNull('Process id of QEMU; null for a domain, as are commandLine, script, monitor and agent'),
    commandLine: v.nullable(texts("QEMU's command line, the program first")),
    script: textOrNull('The same as a script: its absolute path'),
    monitor: textOrNull('QMP socket of the VM'),
    agent: textOrNull('Socket of the guest agent; null where it has no channel'),
    domain: v.nullable(
      object(
        { name: text('Its name'), uuid: text('Its UUID') },
        'The libvirt domain that runs; null for a point of a VM by QMP',
      ),
    ),
    disks: listOf(
      object(
        {
          disk: text('Disk id'),
          overlay: text('Absolute path of the image that takes what is written'),
          leans: flag('It needs the backup'),
        },
        'A disk of the VM',
      ),
      'The disks of the VM',
    ),
    warnings: warnings(),
  },
  'The answer of `qmpbackup boot`',
);

export type BootDocument = v.InferOutput<typeof bootDocumentSchema>;

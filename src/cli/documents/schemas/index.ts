import { backupDocumentSchema } from './backup.js';
import { cleanupDocumentSchema } from './cleanup.js';
import { consolidateSourceDocumentSchema } from './consolidate-source.js';
import { doctorDocumentSchema } from './doctor.js';
import { errorDocumentSchema } from './error.js';
import { exportDocumentSchema } from './export.js';
import { filesFindDocumentSchema, filesGetDocumentSchema, filesLsDocumentSchema } from './files.js';
import { importDocumentSchema } from './import.js';
import { infoDocumentSchema } from './info.js';
import { lineSchema } from './line.js';
import { listDocumentSchema } from './list.js';
import { mergeDocumentSchema } from './merge.js';
import { mountDocumentSchema } from './mount.js';
import { noteDocumentSchema, pinDocumentSchema, unpinDocumentSchema } from './pin.js';
import { consolidateDocumentSchema } from './consolidate.js';
import { configCheckDocumentSchema, configExampleDocumentSchema, configShowDocumentSchema } from './config.js';
import { notifyTestDocumentSchema } from './notify.js';
import { pruneDocumentSchema } from './prune.js';
import { rebaseDocumentSchema } from './rebase.js';
import { recoverDocumentSchema } from './recover.js';
import { reportDocumentSchema } from './report.js';
import { restoreDocumentSchema } from './restore.js';
import { bootDocumentSchema } from './boot.js';
import { runDocumentSchema } from './run.js';
import { serveDocumentSchema } from './serve.js';
import { statusDocumentSchema } from './status.js';
import { umountDocumentSchema } from './umount.js';
import { verifyDocumentSchema } from './verify.js';

/**
 * The schema of each document, by the command that prints it; `error` is that of a run that failed, `line` one line of
 * `--json=lines`.
 */
export const DOCUMENT_SCHEMAS = {
  backup: backupDocumentSchema,
  list: listDocumentSchema,
  verify: verifyDocumentSchema,
  info: infoDocumentSchema,
  restore: restoreDocumentSchema,
  serve: serveDocumentSchema,
  mount: mountDocumentSchema,
  umount: umountDocumentSchema,
  'files-ls': filesLsDocumentSchema,
  'files-get': filesGetDocumentSchema,
  'files-find': filesFindDocumentSchema,
  export: exportDocumentSchema,
  boot: bootDocumentSchema,
  prune: pruneDocumentSchema,
  consolidate: consolidateDocumentSchema,
  'consolidate-source': consolidateSourceDocumentSchema,
  pin: pinDocumentSchema,
  unpin: unpinDocumentSchema,
  note: noteDocumentSchema,
  rebase: rebaseDocumentSchema,
  merge: mergeDocumentSchema,
  import: importDocumentSchema,
  cleanup: cleanupDocumentSchema,
  recover: recoverDocumentSchema,
  doctor: doctorDocumentSchema,
  run: runDocumentSchema,
  status: statusDocumentSchema,
  report: reportDocumentSchema,
  'config-check': configCheckDocumentSchema,
  'config-show': configShowDocumentSchema,
  'config-example': configExampleDocumentSchema,
  'notify-test': notifyTestDocumentSchema,
  error: errorDocumentSchema,
  line: lineSchema,
} as const;

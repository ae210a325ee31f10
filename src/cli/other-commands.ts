import { bootCommand } from './commands/boot.js';
import { cleanupCommand } from './commands/cleanup.js';
import { completeWordsCommand } from './commands/complete-words.js';
import { configCommand } from './commands/config.js';
import { consolidateCommand } from './commands/consolidate.js';
import { consolidateSourceCommand } from './commands/consolidate-source.js';
import { doctorCommand } from './commands/doctor.js';
import { exportCommand } from './commands/export.js';
import { filesCommand } from './commands/files.js';
import { generateCommand } from './commands/generate.js';
import { importCommand } from './commands/import.js';
import { infoCommand } from './commands/info.js';
import { listCommand } from './commands/list.js';
import { mergeCommand } from './commands/merge.js';
import { mountCommand } from './commands/mount.js';
import { notifyCommand } from './commands/notify.js';
import { noteCommand, pinCommand, unpinCommand } from './commands/pin.js';
import { pruneCommand } from './commands/prune.js';
import { rebaseCommand } from './commands/rebase.js';
import { recoverCommand } from './commands/recover.js';
import { reportCommand } from './commands/report.js';
import { restoreCommand } from './commands/restore.js';
import { runCommand } from './commands/run.js';
import { serveCommand } from './commands/serve.js';
import { statusCommand } from './commands/status.js';
import { umountCommand } from './commands/umount.js';
import { verifyCommand } from './commands/verify.js';
import type { Register } from './register.js';

/** All but `backup`, in the order of the help. */
export const OTHER_COMMANDS: readonly Register[] = [
  listCommand,
  verifyCommand,
  infoCommand,
  restoreCommand,
  serveCommand,
  mountCommand,
  umountCommand,
  filesCommand,
  bootCommand,
  pruneCommand,
  consolidateCommand,
  pinCommand,
  unpinCommand,
  noteCommand,
  rebaseCommand,
  mergeCommand,
  exportCommand,
  importCommand,
  cleanupCommand,
  consolidateSourceCommand,
  recoverCommand,
  doctorCommand,
  generateCommand,
  completeWordsCommand,
  runCommand,
  statusCommand,
  reportCommand,
  configCommand,
  notifyCommand,
];

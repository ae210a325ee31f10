/** The public library surface: the operations behind the commands, and what they take, report and throw. */
export { backup } from './operations/backup.js';
export type {
  BackupContext,
  BackupEvent,
  BackupOptions,
  BackupResult,
  DiskProgress,
} from './operations/point/backup-run.js';
export { cleanup } from './operations/cleanup.js';
export type { CleanupOptions, CleanupResult } from './operations/cleanup.js';
export { importStreams } from './operations/import.js';
export type { ImportContext, ImportEvent, ImportOptions, ImportResult } from './operations/importing/import-run.js';
export { info } from './operations/info.js';
export type { VmInfo } from './operations/info.js';
export { list } from './operations/list.js';
export type { ListedPoint, ListedTarget } from './operations/list.js';
export { merge } from './operations/merge.js';
export type { MergeContext, MergeEvent, MergeOptions, MergeResult } from './operations/merge.js';
export { rebase } from './operations/rebase.js';
export type { RebaseContext, RebaseEvent, RebaseOptions, RebaseResult } from './operations/rebase.js';
export { restore } from './operations/restore.js';
export type { RestoreContext, RestoreEvent, RestoreOptions, RestoreResult } from './operations/restore.js';
export { parseEndpoint } from './qmp/endpoint.js';
export type { Endpoint } from './qmp/endpoint.js';
export { QmpBackupError } from './errors.js';
export type { ErrorCode } from './errors.js';

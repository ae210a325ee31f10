import type { BackupDocument } from './schemas/backup.js';
import type { BootDocument } from './schemas/boot.js';
import type { CleanupDocument } from './schemas/cleanup.js';
import type { ConfigCheckDocument, ConfigExampleDocument, ConfigShowDocument } from './schemas/config.js';
import type { ConsolidateDocument } from './schemas/consolidate.js';
import type { ConsolidateSourceDocument } from './schemas/consolidate-source.js';
import type { DoctorDocument } from './schemas/doctor.js';
import type { ExportDocument } from './schemas/export.js';
import type { FilesFindDocument, FilesGetDocument, FilesLsDocument } from './schemas/files.js';
import type { ImportDocument } from './schemas/import.js';
import type { InfoDocument } from './schemas/info.js';
import type { ListDocument } from './schemas/list.js';
import type { MergeDocument } from './schemas/merge.js';
import type { MountDocument } from './schemas/mount.js';
import type { NoteDocument, PinDocument, UnpinDocument } from './schemas/pin.js';
import type { NotifyTestDocument } from './schemas/notify.js';
import type { PruneDocument } from './schemas/prune.js';
import type { RebaseDocument } from './schemas/rebase.js';
import type { RecoverDocument } from './schemas/recover.js';
import type { ReportDocument } from './schemas/report.js';
import type { RestoreDocument } from './schemas/restore.js';
import type { RunDocument } from './schemas/run.js';
import type { ServeDocument } from './schemas/serve.js';
import type { StatusDocument } from './schemas/status.js';
import type { UmountDocument } from './schemas/umount.js';
import type { VerifyDocument } from './schemas/verify.js';

/** All that leaves the program as an answer under `--json`. */
export type AnswerDocument =
  | BackupDocument
  | ListDocument
  | VerifyDocument
  | InfoDocument
  | RestoreDocument
  | ServeDocument
  | MountDocument
  | UmountDocument
  | FilesLsDocument
  | FilesGetDocument
  | FilesFindDocument
  | BootDocument
  | ConsolidateDocument
  | ConsolidateSourceDocument
  | PruneDocument
  | PinDocument
  | UnpinDocument
  | NoteDocument
  | RebaseDocument
  | MergeDocument
  | ExportDocument
  | ImportDocument
  | CleanupDocument
  | RecoverDocument
  | DoctorDocument
  | RunDocument
  | StatusDocument
  | ReportDocument
  | ConfigCheckDocument
  | ConfigShowDocument
  | ConfigExampleDocument
  | NotifyTestDocument;

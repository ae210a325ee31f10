/**
 * The public library surface: the operations behind the commands, and the type of all that they take, report and answer. See
 * docs/library.md.
 */
export { backup } from './operations/backup/backup.js';
export type { BackupRequest } from './backends/backup-options.js';
export type { BackupContext, BackupEvent, BackupResult, DiskProgress, Freeze, Instant } from './backends/backup-run.js';
export type { AskedTime } from './core/asked-time.js';
export type { FleeceChoice } from './core/fleece-choice.js';
export type { BackupPlan, PlannedDisk } from './core/plan.js';
export type { Remark } from './core/remarks.js';
export type { SpaceNeed } from './core/space.js';

export { cleanup } from './operations/cleanup.js';
export { consolidateSource } from './operations/consolidate-source.js';
export type { ConsolidatedDisk, OverlayLayer } from './core/overlay-layers.js';
export type {
  ConsolidateSourceContext,
  ConsolidateSourceRequest,
  ConsolidateSourceResult,
} from './operations/consolidate-source.js';
export type { CleanupContext, CleanupResult, JudgedBitmap } from './operations/cleanup.js';
export { info } from './operations/info.js';
export type { InfoContext, VmInfo } from './operations/info.js';
export { list } from './operations/list.js';
export type { ListedPoint, ListedTarget, ListResult, UnlistedTarget } from './operations/list.js';
export type { FreedAlone } from './core/point-space.js';
export type { CleanupRequest, InfoRequest, ListRequest } from './operations/options.js';
export type { Damage } from './core/damage.js';

export { doctor } from './operations/doctor/doctor.js';
export type { DoctorContext, DoctorResult } from './operations/doctor/doctor.js';
export type { DoctorRequest } from './operations/doctor/options.js';
export type { Failure } from './core/failure.js';
export type { Finding } from './core/finding.js';
export type { DetachedOverlay } from './core/detached-overlay.js';
export type { OverlaySpace } from './core/overlay-space.js';
export type { Connect } from './core/virsh-hint.js';
export type { DomainAgentFacts, DomainFacts, ScratchFacts } from './doctor/domain-facts.js';
export type {
  AgentFacts,
  DoctorFacts,
  PlanFacts,
  SpaceFacts,
  TargetContent,
  TargetFacts,
  VmFacts,
} from './doctor/facts.js';

export { exportPoints } from './operations/export/export.js';
export type { ExportContext, ExportEvent, ExportResult } from './operations/export/export.js';
export type { ExportPointsRequest } from './operations/export/options.js';

export { importPoints } from './operations/import/import.js';
export type {
  ImportContext,
  ImportedDisk,
  ImportedPoint,
  ImportEvent,
  ImportResult,
} from './operations/import/import-run.js';
export type { ImportRequest } from './operations/import/options.js';

export { merge } from './operations/restore/merge.js';
export type { MergeContext, MergeEvent, MergeResult } from './operations/restore/merge.js';
export type { MergeRequest } from './operations/restore/merge-options.js';
export { restore } from './operations/restore/restore.js';
export type { RestoreContext, RestoredDisk, RestoreEvent, RestoreResult } from './operations/restore/request.js';
export type { RestoreRequest } from './operations/restore/options.js';
export type { WrittenDefinition } from './machine/domain-definition.js';

export { serve } from './operations/serve/serve.js';
export type { ServeContext, ServedDisk, ServeEvent, ServeResult } from './operations/serve/serve.js';
export type { ServeRequest } from './operations/serve/options.js';
export { mount } from './operations/mount/mount.js';
export type { MountContext, MountedDisk, MountEvent, MountResult } from './operations/mount/mount.js';
export { umount } from './operations/mount/umount.js';
export type { UmountContext, UmountResult } from './operations/mount/umount.js';
export type { MountRequest, UmountRequest } from './operations/mount/options.js';
export { filesFind } from './operations/files/find.js';
export type { FilesFindResult, FoundInPoints, FoundState, SkippedPoint } from './operations/files/find.js';
export { filesGet } from './operations/files/get.js';
export type { FilesGetResult, GetContext, GotFile } from './operations/files/get.js';
export { filesLs } from './operations/files/ls.js';
export type { FilesLsResult, ListedVolume } from './operations/files/ls.js';
export type { FilesContext, FilesEvent } from './operations/files/begin.js';
export type { FilesFindRequest, FilesGetRequest, FilesLsRequest } from './operations/files/options.js';
export type { GuestFile, GuestFileKind, LocatedFile, Volume } from './guest-files/reader.js';
export { boot } from './operations/boot/boot.js';
export type { BootContext, BootedDisk, BootEvent, BootResult } from './operations/boot/request.js';
export type { BootRequest } from './operations/boot/options.js';
export { verify } from './operations/verify/verify.js';
export type {
  BootedPoint,
  Evidence,
  VerifiedTarget,
  VerifyContext,
  VerifyEvent,
  VerifyResult,
} from './operations/verify/request.js';
export type { VerifyRequest } from './operations/verify/options.js';
export type { FileFaultCode } from './core/file-record.js';
export type { PointFindingCode } from './core/point-findings.js';
export type { TargetFinding, TargetFindingCode } from './core/target-finding.js';

export { note, pin, unpin } from './operations/pin.js';
export type { MarkContext, MarkedPoint, NoteRequest, PinRequest, UnpinRequest } from './operations/pin.js';

export { consolidate } from './operations/consolidate/consolidate.js';
export type {
  ConsolidateContext,
  ConsolidatedChain,
  ConsolidatedPoint,
  ConsolidateEvent,
  ConsolidateResult,
  NewFile,
} from './operations/consolidate/consolidate.js';
export type { ConsolidateRequest } from './operations/consolidate/options.js';
export type { ConsolidationEvent } from './consolidation/consolidate-points.js';

export { prune } from './operations/prune/prune.js';
export type { PruneContext, PruneEvent, PruneResult, PrunedHistory, PrunedPoint } from './operations/prune/request.js';
export type { PruneRequest } from './operations/prune/options.js';
export type { CountRule, RetentionReason } from './core/retention.js';

export { rebase } from './operations/rebase/rebase.js';
export type { RebaseContext, RebaseEvent, RebaseResult, RebaseSummary } from './operations/rebase/rebase.js';
export type { RebaseRequest } from './operations/rebase/options.js';

export { recover } from './operations/recover/recover.js';
export type { DeadRun, RecoverContext, RecoveredTarget, RecoverResult } from './operations/recover/recover.js';
export type { RecoverRequest } from './operations/recover/options.js';
export type { FrozenGuest } from './core/journal.js';
export type { RedefineCheckpoint, RepairAction } from './core/reconcile.js';

export type {
  DirtyBitmap,
  JobState,
  LeftOut,
  LeftOutKind,
  Machine,
  Offer,
  OwnNode,
  SourceDisk,
  VmState,
} from './core/disk.js';
export type { Hardware, HardwareDevice } from './core/hardware.js';
export type { VmIdentity } from './core/identity.js';
export type { Level } from './core/level.js';
export type { NodeRole } from './core/names.js';
export type { Consistency, LackedDisk, Point, PointDisk } from './core/point.js';
export type { Warning, WarningCode } from './core/warning.js';
export type { Trace, VerbContext, WarningEvent } from './backends/verb-context.js';
export { QmpBackupError } from './errors.js';
export type { ErrorCode } from './errors.js';

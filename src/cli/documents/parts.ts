import type { LeftOut, Machine } from '../../core/disk.js';
import type { FleeceChoice } from '../../core/fleece-choice.js';
import type { VmIdentity } from '../../core/identity.js';
import type { LackedDisk } from '../../core/point.js';
import type { Warning } from '../../core/warning.js';
import type { BackupDocument } from './schemas/backup.js';
import type { IdentityPart, LackedDiskPart, LeftOutPart, MachinePart, WarningPart } from './schemas/parts.js';

/** What several documents have in common. Fields are named one by one: nothing internal gets into a document unseen. */
export function identityPart({ uuid, name, label }: VmIdentity): IdentityPart {
  return { uuid, name, label };
}

export function machinePart({ name, uuid, qemuVersion, type, memory, cpus }: Machine): MachinePart {
  return { name, uuid, qemuVersion, type, memory, cpus };
}

export function leftOutPart({ name, reason, kind }: Pick<LeftOut, 'name' | 'reason' | 'kind'>): LeftOutPart {
  return { name, reason, kind };
}

export function lackedPart({ disk, reason, kind }: LackedDisk): LackedDiskPart {
  return { disk, reason, kind };
}

export function warningPart({ code, text }: Warning): WarningPart {
  return { code, text };
}

export function fleecePart({ fleece, why }: FleeceChoice): BackupDocument['fleecing'] {
  return { fleece, why };
}

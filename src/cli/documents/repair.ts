import type { FrozenGuest } from '../../core/journal.js';
import type { RepairAction } from '../../core/reconcile.js';
import type { RepairDocument } from './schemas/repair.js';

export function repairDocument(action: RepairAction): RepairDocument {
  const { kind } = action;
  switch (kind) {
    case 'thaw':
      return { kind, guest: guestPart(action.guest) };
    case 'end-job':
      return { kind, job: action.job, concluded: action.concluded };
    case 'remove-export':
      return { kind, id: action.id };
    case 'take-out-filter':
      return { kind, qdev: action.qdev, filter: action.filter, node: action.node };
    case 'remove-node':
      return { kind, node: action.node };
    case 'delete-scratch':
      return { kind, folder: action.folder };
    case 'remove-bitmap':
      return { kind, node: action.node, bitmap: action.bitmap, why: action.why };
    case 'redefine-checkpoint':
      return { kind, checkpoint: action.checkpoint, createdAt: action.createdAt, disks: action.disks };
    case 'merge-overlay':
      return { kind, target: action.target, overlay: action.overlay };
    case 'delete-overlay':
      return { kind, path: action.path };
    case 'delete-file':
      return { kind, disk: action.disk, file: action.file };
    case 'delete-folder':
      return { kind, disk: action.disk };
    case 'end-domain':
      return { kind, domain: action.domain };
    case 'continue':
    case 'stop-nbd-server':
    case 'remove-journal':
      return { kind };
  }
}

function guestPart(guest: FrozenGuest): Extract<RepairDocument, { kind: 'thaw' }>['guest'] {
  return guest.kind === 'agent' ? { kind: 'agent', endpoint: guest.endpoint } : { kind: 'domain', uuid: guest.uuid };
}

import type { FrozenGuest } from '../../core/journal.js';
import type { RepairAction } from '../../core/reconcile.js';

/** One repair in words: `removed run.json`, or with `would` what it would be. */
export function repairText(action: RepairAction, would: boolean): string {
  const said = (done: string, todo: string): string => (would ? `would ${todo}` : done);
  switch (action.kind) {
    case 'thaw':
      return `${said('asked', 'ask')} ${whoThaws(action.guest)} to thaw the guest`;
    case 'continue':
      return `${said('let', 'let')} the VM go on, which the run had stopped`;
    case 'end-job':
      return action.concluded
        ? `${said('dismissed', 'dismiss')} the ended job ${action.job}`
        : `${said('cancelled', 'cancel')} the job ${action.job}, which still ${would ? 'runs' : 'ran'}`;
    case 'remove-export':
      return `${said('removed', 'remove')} the NBD export ${action.id} from the VM`;
    case 'stop-nbd-server':
      return `${said('stopped', 'stop')} the VM's NBD server, which the run had started`;
    case 'take-out-filter':
      return `${said('took', 'take')} the filter ${action.filter} out of ${action.qdev}`;
    case 'delete-scratch':
      return `${said('removed', 'remove')} the scratch images in ${action.folder}`;
    case 'remove-node':
      return `${said('removed', 'remove')} the block node ${action.node} from the VM`;
    case 'remove-bitmap':
      return `${said('removed', 'remove')} the bitmap ${action.bitmap} from ${action.node}: ${action.why}`;
    case 'redefine-checkpoint': {
      const on = `${action.checkpoint} on ${action.disks.join(', ')}, which it had forgotten`;
      return would
        ? `would tell libvirt again of the checkpoint ${on}, as far as its bitmaps are whole`
        : `told libvirt again of the checkpoint ${on}`;
    }
    case 'merge-overlay':
      return `${said('merged', 'merge')} the overlay ${action.overlay} into the image of ${action.target}`;
    case 'delete-overlay':
      return `${said('deleted', 'delete')} the overlay ${action.path}, which is above no disk`;
    case 'delete-file':
      return `${said('deleted', 'delete')} ${action.disk}/${action.file}, which belongs to no point`;
    case 'delete-folder':
      return `${said('removed', 'remove')} the folder ${action.disk} if it was empty`;
    case 'end-domain':
      return `${said('ended', 'end')} the domain ${action.domain}, which the run had started paused`;
    case 'remove-journal':
      return `${said('removed', 'remove')} run.json, the journal of that run`;
  }
}

/** A guest that was frozen through libvirt has the domain's UUID in the place of an address. */
function whoThaws(guest: FrozenGuest): string {
  return guest.kind === 'agent' ? `the guest agent at ${guest.endpoint}` : `libvirt (domain ${guest.uuid})`;
}

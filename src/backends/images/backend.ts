import type { VmState } from '../../core/disk.js';
import type { BackupPlan } from '../../core/plan.js';
import { warning } from '../../core/warning.js';
import { QmpBackupError } from '../../errors.js';
import type { Backend, ReadyVm } from '../backend.js';
import { unfrozen } from '../methods/unfrozen.js';
import { offlineCopy } from './methods/offline-copy.js';
import { observeOfflineRepairs, repairOffline } from '../repair-offline.js';
import type { OfflineVm } from './vm.js';

/**
 * A VM that is off: its images are read through qemu-nbd and never written to, by which no QEMU can open them for
 * writing meanwhile. No bitmap is added, none removed (docs/decisions/0011).
 */
export function imagesBackend(offline: OfflineVm): Backend {
  const { state, signal, subject } = offline;
  return {
    state,
    signal,
    subject,
    monitor: null,
    imageOwner: undefined,
    observeRepairs: (target) => observeOfflineRepairs(target, state),
    repair: async (target, vm) => ({ vm, report: await repairOffline(target, vm) }),
    foresee: (vm) => readyImages(offline, vm),
    makeReady: (_run, vm) => Promise.resolve(readyImages(offline, vm)),
  };
}

function readyImages(offline: OfflineVm, vm: VmState): ReadyVm {
  return {
    vm,
    bitmapName: null,
    prepare: (run, planned) => {
      refuseUnreadable(planned.plan, offline);
      if (offline.unclean !== null) unfrozen(run, offline.unclean);
      for (const { disk, source } of planned.plan.disks) {
        if (offline.unlocked.includes(source.address)) {
          run.warn(
            warning(
              'not-locked',
              `${disk} (${source.file}) is read over the network, where no lock keeps another host from writing to it: its copy is of one instant only if none does`,
            ),
          );
        }
        if (source.id === undefined || source.id === disk) continue;
        run.warn(
          warning(
            'disk-renamed',
            `${source.file} was named ${source.id}, and by its bitmap it is ${disk} of this target: taken as that`,
          ),
        );
      }
      return Promise.resolve(offlineCopy(offline, planned));
    },
    // There is no guest.
    checkFreeze: () => Promise.resolve(),
    withOrphanBitmaps: (disks) => Promise.resolve(disks),
    // What the point made superfluous stays in the images until the next one of the running VM.
    retire: () => Promise.resolve([]),
  };
}

function refuseUnreadable({ disks }: BackupPlan, { instead }: OfflineVm): void {
  const encrypted = disks.find(({ source }) => source.encrypted);
  if (!encrypted) return;
  const why = 'its image is encrypted, and only the VM has its key';
  throw new QmpBackupError('unsafe', `${encrypted.disk} cannot be read while the VM is off: ${why}`, {
    hint: `Nothing was changed. Leave the disk out with --exclude ${encrypted.disk}, or ${instead}`,
  });
}

import type { VmState } from '../../core/disk.js';
import { bitmapName, guardNodeName } from '../../core/names.js';
import { eachDisk } from '../../flow/all-of.js';
import type { Unwind } from '../../flow/unwind.js';
import type { SocketOwner } from '../../host/socket-owner.js';
import { dismissJob } from '../../qemu/job-watch.js';
import { mayGo } from '../../qemu/stay-here.js';
import { describeEndpoint } from '../../qmp/endpoint.js';
import type { Backend, ReadyVm } from '../backend.js';
import type { BackupOptions } from '../backup-options.js';
import { observeRepairs } from '../repair.js';
import { chooseFleecing } from './choose-fleecing.js';
import { refuseMoved, refuseRunState } from './hold-vm.js';
import { journalledEndpoint } from './journalled-endpoint.js';
import { driveBackup } from './methods/drive-backup.js';
import { refuseLibvirtAgent } from './refuse-libvirt.js';
import { removeOrSay, repair } from './repair.js';
import { ENDING_MS, openVm, type VmAccess, type VmSession } from './session.js';
import { checkVmFreeze } from './start-guards.js';

type Access = Omit<VmAccess, 'endDeadJobsMs'> & Pick<BackupOptions, 'agent' | 'dryRun' | 'stallTimeoutMs'>;

/** A VM by its QMP monitor: bitmaps and backup jobs in one transaction, QEMU writes the files. */
export async function openQmpBackend(
  { agent, dryRun, stallTimeoutMs, ...access }: Access,
  unwind: Unwind,
): Promise<Backend> {
  if (agent) await refuseLibvirtAgent(agent);
  const endDeadJobsMs = dryRun ? null : Math.min(stallTimeoutMs, ENDING_MS);
  const session = await openVm({ ...access, endDeadJobsMs }, unwind);
  const { client } = session;
  refuseRunState(session.state);
  // Files that root makes for a QEMU that runs as somebody else must belong to that user.
  const imageOwner = process.getuid?.() === 0 ? session.owner : undefined;
  const ready = (vm: VmState): ReadyVm => readyVm(session, vm, imageOwner);
  return {
    state: session.state,
    signal: session.signal,
    subject: describeEndpoint(session.endpoint),
    monitor: journalledEndpoint(session.endpoint),
    imageOwner,
    observeRepairs: (target) => observeRepairs(target, session.state),
    repair: (target, vm) => repair(client, target, vm),
    foresee: ready,
    makeReady: (_run, vm) => Promise.resolve(ready(vm)),
  };
}

function readyVm(session: VmSession, vm: VmState, imageOwner: SocketOwner | undefined): ReadyVm {
  const { client } = session;
  return {
    vm,
    bitmapName,
    prepare: async (run, planned, facts) => {
      const fleecing = await chooseFleecing({ ...run, session }, planned.plan, facts);
      return driveBackup(session, { ...planned, fleecing }, imageOwner);
    },
    checkFreeze: (run) => checkVmFreeze(run, vm),
    // QEMU tells of each bitmap that it has.
    withOrphanBitmaps: (disks) => Promise.resolve(disks),
    retire: async ({ attempt }, plan, actions) => {
      await refuseMoved(client);
      await Promise.all(plan.disks.map(({ job }) => dismissJob(client, job)));
      const said = await eachDisk(actions, async (action) =>
        action.kind === 'remove-bitmap' ? removeOrSay(client, action) : null,
      );
      // Only now may the VM be migrated again: the bitmaps that go with it are those that are needed.
      await mayGo(client, guardNodeName(attempt));
      return said.filter((warning) => warning !== null);
    },
  };
}

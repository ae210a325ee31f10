import { bitmapName } from '../../domain/names.js';
import { removeBitmap } from '../../qemu/bitmaps.js';
import { dismissJob } from '../../qemu/job-watch.js';
import { describeEndpoint } from '../../qmp/endpoint.js';
import { attemptPoint } from './attempt-point.js';
import { chooseFleecing } from './choose-fleecing.js';
import { eachDisk } from '../flow/all-of.js';
import { observeRepairs } from '../repair/repair.js';
import { repair } from './repair-vm.js';
import type { Route } from '../point/route.js';
import type { Unwind } from '../flow/unwind.js';
import { openVm, type VmAccess } from './vm-session.js';

/** A VM by its QMP monitor: bitmaps and backup jobs in one transaction, QEMU writes the files. */
export async function openQmpRoute(access: VmAccess, unwind: Unwind): Promise<Route> {
  const session = await openVm(access, unwind);
  const { client } = session;
  // Files that root makes for a QEMU that runs as somebody else must belong to that user.
  const imageOwner = process.getuid?.() === 0 ? session.owner : undefined;
  return {
    state: session.state,
    signal: session.signal,
    subject: describeEndpoint(session.endpoint),
    imageOwner,
    bitmapName,
    observeRepairs: (target) => observeRepairs(target, session.state),
    repair: (target, vm) => repair(client, target, vm),
    prepare: async (run, planned, facts) => {
      const fleecing = await chooseFleecing({ ...run, session }, planned.plan, facts);
      return {
        fleecing,
        take: (locked, staging, vm) =>
          attemptPoint({ ...locked, session }, { ...planned, fleecing }, staging, vm, imageOwner),
      };
    },
    retire: async (plan, actions) => {
      await Promise.all(plan.disks.map(({ job }) => dismissJob(client, job)));
      await eachDisk(actions, async (action) => {
        if (action.kind === 'remove-bitmap') await removeBitmap(client, action.node, action.bitmap);
      });
    },
  };
}

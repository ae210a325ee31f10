/** The process of a pull's guard, which its owner kills when there is nothing left to do. */
import { endPullAt } from '../libvirt/end-pull.js';
import { resumeStalled } from '../libvirt/lifecycle.js';
import { createVirsh } from '../libvirt/virsh.js';
import { beginGuard } from './own-side.js';
import { pullTask } from './pull-guard-task.js';
import { ownerGone, untilDone } from './until-done.js';

const task = beginGuard(pullTask);
await ownerGone(task.owner);
const virsh = createVirsh(task.connect ?? undefined);

/** Each attempt looks first whose job it is: the next run may have ended ours, and begun one of its own. */
await untilDone(async () => {
  const found = await endPullAt(virsh, task.uuid, task.socket);
  if (found === 'another') return 'done';
  if (task.resumes) await resumeStalled(virsh, task.uuid);
  return found === 'ended' ? 'done' : 'absent';
});

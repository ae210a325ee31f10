/** The process of the guard of overlays, which its owner kills when there is nothing left to do. */
import { resumeStalled } from '../libvirt/lifecycle.js';
import { mergeUppermost } from '../libvirt/merge-overlays.js';
import { createVirsh } from '../libvirt/virsh.js';
import { overlayTask } from './overlay-guard-task.js';
import { beginGuard } from './own-side.js';
import { ownerGone, untilDone } from './until-done.js';

const task = beginGuard(overlayTask);
await ownerGone(task.owner);
const { connect, uuid, overlays, resumes } = task;
const virsh = createVirsh(connect ?? undefined);

await untilDone(async () => {
  // The next run may be at it, too: who comes later finds them merged.
  const merged = await Promise.allSettled(
    overlays.map(({ target, name }) => mergeUppermost({ virsh, uuid, connect }, target, name)),
  );
  if (resumes) await resumeStalled(virsh, uuid);
  for (const each of merged) if (each.status === 'rejected') throw each.reason;
  return merged.some((each) => each.status === 'fulfilled' && each.value) ? 'done' : 'absent';
});

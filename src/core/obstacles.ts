import { QmpBackupError } from '../errors.js';
import type { DiskHolder, LeftOut, SourceDisk } from './disk.js';
import type { KnownSource } from './match-disks.js';

/** Why a disk cannot be copied now, and what to do about that. */
export interface Obstacle {
  readonly why: string;
  readonly todo: string;
}

/** The one judgement of `backup`, its dry run and `doctor`; null where nothing stands in the way. */
export function obstacleOf({ unreadable, heldBy, temporary }: SourceDisk): Obstacle | null {
  if (unreadable) return unreadable;
  if (temporary) {
    return {
      why: 'it is a temporary overlay (-snapshot, snapshot=on), and QEMU deletes the image of a backup of such a disk',
      todo: 'Its changes are dropped when QEMU ends. Start the VM without -snapshot (or snapshot=on) to back it up.',
    };
  }
  return heldBy ? heldObstacle(heldBy) : null;
}

/** A disk that has a job of somebody else. */
export function heldObstacle(holder: DiskHolder): Obstacle {
  if ('virsh' in holder) {
    const { type, virsh } = holder;
    return {
      why: `a job of somebody else has it (${type}), and libvirt backs no such disk up`,
      todo: `Wait until that job has ended (${virsh} --info), or end it: ${virsh} --abort, where a copy or commit that is ready is taken over with --pivot.`,
    };
  }
  const { type, id } = holder;
  return {
    why: `a job of somebody else has it (${type}, id ${id}), and QEMU backs no such disk up`,
    todo: `Wait until that job has ended, or end it in the monitor: job-cancel id=${id}, or job-complete where a mirror or commit that is ready is to be taken over.`,
  };
}

interface Choice {
  readonly chosen: readonly KnownSource[];
  readonly leftOut: readonly LeftOut[];
}

/**
 * With `skipFailed`, disks that cannot be copied go to those that are left out.
 *
 * @throws QmpBackupError `unsafe` with every disk that cannot be copied: without `skipFailed`, or where none is left
 */
export function setAside({ chosen, leftOut }: Choice, skipFailed: boolean): Choice {
  const failed = chosen.flatMap((disk) => {
    const obstacle = obstacleOf(disk.source);
    return obstacle ? [{ disk, ...obstacle }] : [];
  });
  if (failed.length === 0) return { chosen, leftOut };
  const others = chosen.filter((disk) => !failed.some((each) => each.disk === disk));
  if (!skipFailed || others.length === 0) {
    const todo = failed.map((each) => `${each.disk.id}: ${each.todo}`);
    const way = others.length === 0 ? [] : ['--skip-failed-disks backs the others up; --exclude leaves a disk out.'];
    throw new QmpBackupError('unsafe', inWords(failed.map(({ disk, why }) => ({ name: disk.id, why }))), {
      hint: ['Nothing was changed.', ...todo, ...way].join(' '),
    });
  }
  const lacked = failed.map(({ disk, why, todo }): LeftOut => ({
    name: disk.id,
    reason: why,
    kind: 'failed',
    instead: todo,
  }));
  return { chosen: others, leftOut: [...leftOut, ...lacked] };
}

function inWords(failed: readonly { readonly name: string; readonly why: string }[]): string {
  const disks = failed.map(({ name, why }) => `${name}: ${why}`).join('; ');
  return `${failed.length === 1 ? 'a disk' : `${failed.length} disks`} cannot be copied: ${disks}`;
}

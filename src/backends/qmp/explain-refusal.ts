import { obstacleOf } from '../../core/obstacles.js';
import type { PlannedDisk } from '../../core/plan.js';
import { QmpBackupError } from '../../errors.js';
import { inspectVm } from '../../qemu/inspect.js';
import type { QmpClient } from '../../qmp/client.js';
import { QmpCommandError } from '../../qmp/errors.js';

/** What QEMU says of a node that it lets nobody else use (7.2 and 10.0), or write to. */
const REFUSED = /is busy|in use by|is read-only|is readonly/;

/** A refusal of QEMU's that tells nothing of who has the disk: with who that is at this moment, and what to do. */
export async function explained(
  client: QmpClient,
  disks: readonly Pick<PlannedDisk, 'disk' | 'source'>[],
  error: unknown,
): Promise<unknown> {
  if (!(error instanceof QmpCommandError) || !REFUSED.test(error.desc)) return error;
  const now = await inspectVm(client).catch(() => null);
  // Its own failure says less than QEMU's refusal.
  if (now === null) return error;
  const held = disks.flatMap(({ disk, source }) => {
    const seen = now.disks.find(({ address }) => address === source.address);
    const obstacle = seen && obstacleOf(seen);
    if (obstacle) return [{ disk, ...obstacle }];
    const why = now.leftOut.find(({ name }) => [source.device, source.qdev, source.address].includes(name))?.reason;
    const todo = 'It was not so when the run began. Make it writable again, or run it again: it is then left out.';
    return seen || why === undefined ? [] : [{ disk, why: `it is now ${why}`, todo }];
  });
  const names = held.map(({ disk, why }) => `; ${disk}: ${why}`).join('');
  const todo = held.map((each) => `${each.disk}: ${each.todo}`).join(' ');
  const gone = 'Whoever had the disk has let go of it, or the disk is used as part of another: run it again.';
  return new QmpBackupError('failed', `${error.message}${names}`, {
    cause: error,
    hint: `No point was made and no change is lost. ${todo === '' ? `${gone} See: qmpbackup info --show jobs` : todo}`,
  });
}

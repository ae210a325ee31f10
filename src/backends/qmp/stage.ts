import type { PlannedDisk } from '../../core/plan.js';
import { QmpBackupError } from '../../errors.js';
import { eachDisk } from '../../flow/all-of.js';
import type { SocketOwner } from '../../host/socket-owner.js';
import type { FleecedDisk } from '../../qemu/fleece.js';
import { probeWritable, type TargetAio } from '../../qemu/probe-target.js';
import type { TransactionDisk } from '../../qemu/transaction.js';
import type { QmpClient } from '../../qmp/client.js';
import { QmpCommandError } from '../../qmp/errors.js';
import type { Staging } from '../../repository/staging.js';
import { stageImage } from '../attempt/stage-image.js';

/**
 * Makes the new images, empty and linked to their parents, and proves that QEMU can write to them: all of it before
 * any freeze. QEMU never opens the parents.
 */
export async function stagePoint(
  client: QmpClient,
  staging: Staging,
  disks: readonly PlannedDisk[],
  options: {
    readonly compressionType: 'zstd' | null;
    readonly qemuUser: SocketOwner | undefined;
    readonly fleeced: ReadonlyMap<string, FleecedDisk>;
    readonly signal: AbortSignal;
    /** The target may hang: QEMU shall not wait for it with the threads that serve the guest. */
    readonly mayHang: boolean;
    readonly warn: (text: string) => void;
  },
): Promise<readonly TransactionDisk[]> {
  return eachDisk(disks, async (planned) => {
    const path = await stageImage(staging, planned, options);
    const aio = await probeOrExplain(client, path, options);
    return { planned, path, aio, fleece: options.fleeced.get(planned.disk) ?? null };
  });
}

type ProbeOptions = Pick<Parameters<typeof stagePoint>[3], 'qemuUser' | 'mayHang' | 'warn'>;

async function probeOrExplain(
  client: QmpClient,
  path: string,
  { qemuUser: user, mayHang, warn }: ProbeOptions,
): Promise<TargetAio> {
  if (mayHang) {
    try {
      await probeWritable(client, path, 'io_uring');
      return 'io_uring';
    } catch (error) {
      if (!(error instanceof QmpCommandError)) throw error;
      warn(`QEMU cannot use io_uring (${error.desc}): should the target hang, the guest's disks may hang with it`);
    }
  }
  try {
    await probeWritable(client, path, 'threads');
    return 'threads';
  } catch (error) {
    if (!(error instanceof QmpCommandError)) throw error;
    const who = user ? `QEMU (user ${user.user}, pid ${user.pid})` : 'QEMU';
    throw new QmpBackupError('unsafe', `${who} cannot open the target ${path}: ${error.desc}`, {
      cause: error,
      hint: 'Give the user that QEMU runs as access to every folder of the path (also in AppArmor or SELinux rules), or run the backup as root.',
    });
  }
}

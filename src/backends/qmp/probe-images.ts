import { type Warn, warning } from '../../core/warning.js';
import { QmpBackupError } from '../../errors.js';
import { eachDisk } from '../../flow/all-of.js';
import type { SocketOwner } from '../../host/socket-owner.js';
import type { FleecedDisk } from '../../qemu/fleece.js';
import { probeWritable, type TargetAio } from '../../qemu/probe-target.js';
import type { TransactionDisk } from '../../qemu/transaction.js';
import type { QmpClient } from '../../qmp/client.js';
import { QmpCommandError } from '../../qmp/errors.js';
import { type StagedImage, writtenBy } from '../copy-method.js';

interface ProbeOptions {
  readonly qemuUser: SocketOwner | undefined;
  readonly fleeced: ReadonlyMap<string, FleecedDisk>;
  /** The target may hang: QEMU shall not wait for it with the threads that serve the guest. */
  readonly mayHang: boolean;
  readonly warn: Warn;
}

/** Proves that QEMU can write to the new images, before any freeze. It never opens their parents. */
export async function probeImages(
  client: QmpClient,
  staged: readonly StagedImage[],
  options: ProbeOptions,
): Promise<readonly TransactionDisk[]> {
  return eachDisk(staged, async (image) => {
    const { planned } = image;
    const path = writtenBy(image);
    const aio = await probeOrExplain(client, path, options);
    return { planned, path, aio, fleece: options.fleeced.get(planned.disk) ?? null };
  });
}

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
      warn(
        warning(
          'target-may-hang',
          `QEMU cannot use io_uring (${error.desc}): should the target hang, the guest's disks may hang with it`,
        ),
      );
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

import { chmod, lchown, stat } from 'node:fs/promises';
import { messageOf, QmpBackupError } from '../errors.js';
import { fileError } from '../host/file-errors.js';
import { qemuOwner } from '../libvirt/qemu-owner.js';
import type { Virsh } from '../libvirt/virsh.js';

export interface GivenToQemu {
  /** Of the domain: `kvm`, `qemu`. */
  readonly type: string;
  /** Sockets and images. */
  readonly files: readonly string[];
  /** What they are in. */
  readonly folders: readonly string[];
}

/** The QEMU of a domain may run as another user, who has to reach these files where libvirt does not see to that. */
export async function giveToQemu(virsh: Virsh, { type, files, folders }: GivenToQemu): Promise<void> {
  const owner = await qemuOwner(virsh, type);
  if (!owner || owner.uid === process.getuid?.()) return;
  for (const path of files) {
    try {
      await lchown(path, owner.uid, owner.gid);
    } catch (error) {
      throw new QmpBackupError(
        'unsafe',
        `${path} cannot be given to the user that QEMU runs as (uid ${owner.uid}): ${messageOf(error)}`,
        {
          cause: error,
          hint: 'Run it as root, or use a libvirt of your own: --connect qemu:///session',
        },
      );
    }
  }
  for (const folder of folders) await openForOthers(folder);
}

/** Who is to reach what is in it has to get through. */
async function openForOthers(folder: string): Promise<void> {
  try {
    const { mode } = await stat(folder);
    if ((mode & 0o011) !== 0o011) await chmod(folder, (mode & 0o777) | 0o011);
  } catch (error) {
    throw fileError('open to QEMU', folder, error);
  }
}

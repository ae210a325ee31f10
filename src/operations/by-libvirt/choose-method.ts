import { QmpBackupError } from '../../errors.js';
import type { Virsh } from '../../libvirt/virsh.js';
import type { BackupOptions } from '../point/backup-run.js';
import type { CopyMethod } from './domain-copy.js';
import { PULL } from './pull-copy.js';

interface Asked {
  readonly virsh: Virsh;
  readonly domain: { readonly iothreads: number };
}

/**
 * A pull, unless it would kill the guest: then a push, which says why. A dry run and `doctor` choose as a run does.
 *
 * @throws QmpBackupError `unsafe` for a pull that was asked for and would
 */
export async function chooseMethod(asked: Asked, name: BackupOptions['method']): Promise<CopyMethod> {
  if (name === 'push') return (await import('./push-copy.js')).PUSH;
  const danger = await dangerOfPull(asked);
  if (danger === null) return PULL;
  if (name === 'pull') {
    throw new QmpBackupError('unsafe', `--method pull: ${danger}`, {
      hint: 'Nothing was changed. Leave the option out, or say --method push: QEMU then writes the backup itself.',
    });
  }
  const { PUSH } = await import('./push-copy.js');
  return {
    ...PUSH,
    fleecing: { fleece: false, why: `by push, so the guest waits for the target before each write: ${danger}` },
    refuse: (options) => refuse(PUSH, options, danger),
  };
}

/** What only a pull can do is not to be had here. */
function refuse(push: CopyMethod, options: BackupOptions, danger: string): void {
  try {
    push.refuse(options);
  } catch (error) {
    if (!(error instanceof QmpBackupError)) throw error;
    throw new QmpBackupError('unsafe', `${error.message}; and a pull is refused: ${danger}`, {
      cause: error,
      hint: 'Nothing was changed. Leave that option out.',
    });
  }
}

/** The first QEMU that was seen to live through it. */
const SAFE_SINCE = 10;

/**
 * QEMU 7.2 aborts when a client leaves an NBD export of a disk that an iothread serves (`nbd_blockdev_client_closed:
 * Assertion qemu_in_main_thread()`): seen at the first pull. Which disks those are each device says in its own way.
 */
async function dangerOfPull({ virsh, domain }: Asked): Promise<string | null> {
  if (domain.iothreads === 0) return null;
  const version = /^Running hypervisor: QEMU (\d+)\./m.exec(await virsh('version'))?.[1];
  if (version !== undefined && Number(version) >= SAFE_SINCE) return null;
  return `the domain has iothreads, and a QEMU before ${SAFE_SINCE} aborts, with the guest, when a disk in one has been pulled`;
}

import { DIES_OF_NBD, survivesReaders } from '../../core/iothread-exports.js';
import { QmpBackupError } from '../../errors.js';
import type { Virsh } from '../../libvirt/virsh.js';
import type { BackupOptions } from '../backup-options.js';
import type { DomainMethod } from './domain-method.js';
import { overlayMethod } from './methods/overlay.js';
import { PULL } from './methods/pull.js';
import { PUSH } from './methods/push.js';

interface Asked {
  readonly virsh: Virsh;
  readonly domain: { readonly iothreads: number };
}

/**
 * A pull, unless it would kill the guest: then a push, which says why. A dry run and `doctor` choose as a run does.
 *
 * @throws QmpBackupError `unsafe` for a pull that was asked for and would
 */
export async function chooseMethod(
  asked: Asked,
  { method: name, track }: Pick<BackupOptions, 'method' | 'track'>,
): Promise<DomainMethod> {
  if (name === 'push') return PUSH;
  if (name === 'overlay') return overlayMethod(track);
  const danger = await dangerOfPull(asked);
  if (danger === null) return PULL;
  if (name === 'pull') {
    throw new QmpBackupError('unsafe', `--method pull: ${danger}`, {
      hint: 'Nothing was changed. Leave the option out, or say --method push: QEMU then writes the backup itself.',
    });
  }
  return {
    ...PUSH,
    fleecing: { fleece: false, why: `by push, so the guest waits for the target before each write: ${danger}` },
    refuse: (options) => refuse(PUSH, options, danger),
  };
}

/** What only a pull can do is not to be had here. */
function refuse(push: DomainMethod, options: BackupOptions, danger: string): void {
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

async function dangerOfPull({ virsh, domain }: Asked): Promise<string | null> {
  if (domain.iothreads === 0) return null;
  const version = /^Running hypervisor: QEMU (\d+)\./m.exec(await virsh('version'))?.[1];
  const major = version === undefined ? null : Number(version);
  return survivesReaders(major) ? null : `the domain ${DIES_OF_NBD}`;
}

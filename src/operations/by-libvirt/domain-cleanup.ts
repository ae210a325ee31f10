import { isAbsolute } from 'node:path';
import type { AskedVm } from '../point/route.js';
import { isOurBitmap } from '../../domain/names.js';
import { reconcileVm } from '../../domain/reconcile.js';
import { redefineCheckpoint } from '../../libvirt/backup.js';
import { imageBitmaps } from '../../qemu-img/bitmaps.js';
import type { FoundBitmap, FoundInVm } from '../cleanup.js';
import { dropCheckpoint, repairDomainAlone } from './domain-repair.js';
import { type DomainSession, openDomain } from './domain-session.js';
import type { Unwind } from '../flow/unwind.js';

type DomainAddress = Extract<AskedVm, { readonly kind: 'domain' }>;

/**
 * The checkpoints of a domain, disk by disk, and bitmaps of ours in its images that libvirt has no checkpoint for: it
 * forgets those with the domain, and the bitmaps go on recording.
 */
export async function findInDomain(
  access: DomainAddress & { readonly breakLock: boolean; readonly dryRun: boolean },
  unwind: Unwind,
): Promise<FoundInVm> {
  const session = await openDomain({ ...access, what: 'cleanup' }, unwind);
  const repairs = reconcileVm(session.state);
  if (!access.dryRun) await repairDomainAlone(session, session.state);

  const known = session.domain.checkpoints;
  const forgotten = await forgottenBitmaps(session);
  const dropped = new Set<string>();
  const dropOnce = async (name: string): Promise<void> => {
    if (dropped.has(name)) return;
    dropped.add(name);
    const targets = forgotten.filter(({ bitmap }) => bitmap === name).map(({ target }) => target);
    if (session.domain.active && targets.length > 0) await tellAgain(session, name, targets);
    await dropCheckpoint(session, name);
  };
  const found = (where: string, bitmap: string): FoundBitmap => ({ where, bitmap, remove: () => dropOnce(bitmap) });
  return {
    bitmaps: [
      ...known.flatMap(({ name, disks }) =>
        disks.length === 0
          ? [found('a disk that is gone', name)]
          : disks.map(({ target, bitmap }) => found(target, bitmap)),
      ),
      ...forgotten.map(({ target, bitmap }) => found(target, bitmap)),
    ],
    repairs,
  };
}

interface Forgotten {
  readonly target: string;
  readonly bitmap: string;
}

/** A QEMU that runs keeps the names of the bitmaps that it found in an image there until it removes them. */
async function forgottenBitmaps({ domain, state }: DomainSession): Promise<readonly Forgotten[]> {
  const known = new Set(domain.checkpoints.map(({ name }) => name));
  const images = state.disks.filter(({ format, file }) => format === 'qcow2' && isAbsolute(file));
  const found = await Promise.all(
    images.map(async ({ node: target, file }) =>
      (await imageBitmaps(file, { shared: true })).map(({ name }) => ({ target, bitmap: name })),
    ),
  );
  return found.flat().filter(({ bitmap }) => isOurBitmap(bitmap) && !known.has(bitmap));
}

/** libvirt removes only bitmaps of checkpoints that it knows, and believes what it is told of them. */
async function tellAgain(
  { virsh, uuid, domain }: DomainSession,
  name: string,
  disks: readonly string[],
): Promise<void> {
  const without = domain.disks.map(({ target }) => target).filter((target) => !disks.includes(target));
  const creationTime = Math.floor(Date.now() / 1000);
  await redefineCheckpoint(virsh, uuid, { name, creationTime, disks, without }, { validate: false });
}

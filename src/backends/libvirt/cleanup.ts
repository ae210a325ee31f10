import { reconcileVm } from '../../core/reconcile.js';
import type { Unwind } from '../../flow/unwind.js';
import type { AskedVm } from '../address.js';
import type { FoundBitmap, FoundInVm } from '../found-bitmaps.js';
import { unwritten } from './offline-bitmaps.js';
import { orphanBitmaps } from './orphan-bitmaps.js';
import { dropCheckpoint, repairDomainAlone } from './repair.js';
import { openDomain, refuseDomainState } from './session.js';

type DomainAddress = Extract<AskedVm, { readonly kind: 'domain' }>;

/**
 * The checkpoints of a domain, disk by disk, and bitmaps of ours in its images that libvirt has no checkpoint for: it
 * forgets those with the domain, and the bitmaps go on recording.
 */
export async function findInDomain(
  access: DomainAddress & { readonly breakLock: boolean; readonly dryRun: boolean },
  unwind: Unwind,
): Promise<FoundInVm> {
  const session = await openDomain({ ...access, purpose: 'cleanup' }, unwind);
  refuseDomainState(session.domain);
  const repairs = reconcileVm(session.state);
  if (!access.dryRun) await repairDomainAlone(session, session.state);

  const known = session.domain.checkpoints;
  const orphans = await orphanBitmaps(session);
  const dropped = new Map<string, Promise<void>>();
  const dropOnce = (name: string): Promise<void> => {
    const drop = dropped.get(name) ?? dropCheckpoint(session, name);
    dropped.set(name, drop);
    return drop;
  };
  const stuck = session.domain.active ? new Map<string, string>() : await unwritten(session.domain);
  const whyItStays = (name: string): string | undefined =>
    known
      .filter((each) => each.name === name)
      .flatMap(({ disks }) => disks.flatMap(({ target }) => stuck.get(target) ?? []))
      .at(0);
  const found = (where: string, bitmap: string): FoundBitmap => ({
    ...{ where, bitmap, stays: whyItStays(bitmap) },
    remove: () => dropOnce(bitmap),
  });
  return {
    bitmaps: [
      ...known.flatMap(({ name, disks }) =>
        disks.length === 0
          ? [found('a disk that is gone', name)]
          : disks.map(({ target, bitmap }) => found(target, bitmap)),
      ),
      ...orphans.map(({ target, bitmap }) => found(target, bitmap)),
    ],
    repairs,
  };
}

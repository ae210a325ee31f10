import type { SourceDisk } from '../../core/disk.js';
import { layersOf } from '../../core/overlay-layers.js';
import { QmpBackupError } from '../../errors.js';
import { allOf } from '../../flow/all-of.js';
import { collectFailure } from '../../flow/collect-failure.js';
import { dumpDefinition } from '../../libvirt/domain.js';
import { type DomainDefinition, parseDomain } from '../../libvirt/domain-xml.js';
import { imagesOf } from '../../libvirt/image-layers.js';
import { isPersistent } from '../../libvirt/lifecycle.js';
import { type MergingDomain, refuseSnapshotsIn } from '../../libvirt/merge-overlays.js';

/** What keeps `--method overlay` from a domain, or from one of its disks. */
export interface OverlayObstacle {
  /** Id; null of the domain as a whole. */
  readonly disk: string | null;
  readonly what: string;
  readonly todo: string | null;
}

/** What stands in the way of a run, and is told by `doctor` before it. */
export async function overlayObstacles(
  session: MergingDomain,
  disks: readonly { readonly disk: string; readonly source: Pick<SourceDisk, 'address'> }[],
): Promise<readonly OverlayObstacle[]> {
  const { virsh, uuid, domain } = session;
  if (!(await isPersistent(virsh, uuid))) {
    const why =
      'after its end it would be started with the images alone, without what the guest has written to the overlays';
    const todo = 'Define it (virsh define), or leave --method out.';
    return [{ disk: null, what: `the domain ${domain.name} is transient: ${why}`, todo }];
  }
  const [live, next] = await allOf([virsh('dumpxml', [], { domain: uuid }), dumpDefinition(virsh, uuid)]);
  const seen = { live: parseDomain(live), next: parseDomain(next) };
  const found = await allOf(disks.map((each) => obstacleOf(session, each.disk, each.source, seen)));
  return found.flatMap((obstacle) => obstacle ?? []);
}

async function obstacleOf(
  session: MergingDomain,
  disk: string,
  { address }: Pick<SourceDisk, 'address'>,
  { live, next }: { readonly live: DomainDefinition; readonly next: DomainDefinition },
): Promise<OverlayObstacle | null> {
  const running = live.disks.find(({ target }) => target === address);
  if (!running) throw new QmpBackupError('failed', `the domain has no disk ${address} any more`);
  const layers = imagesOf(running);
  const { overlays, above, image } = layersOf(layers);
  for (const { path } of overlays) {
    const held = await collectFailure(refuseSnapshotsIn(session, disk, path));
    if (held) return { disk, what: held.failed, todo: held.hint };
  }
  const [top] = above;
  if (top) {
    const what = `${disk} has ${top.description} of somebody else above an overlay of ours`;
    return { disk, what, todo: 'Delete or commit that snapshot first.' };
  }
  if (image.path === null) {
    return { disk, what: `${disk} (${image.description}) is no file and no block device of this host`, todo: null };
  }
  const later = next.disks.find(({ target }) => target === address);
  if (later && imagesOf(later)[0].description === layers[0].description) return null;
  const has = later ? imagesOf(later)[0].description : 'no such disk';
  const what = `${disk} is on ${layers[0].description}, and the definition for the next start has ${has}: that start would lose what is in an overlay`;
  return { disk, what, todo: 'Make them one (virsh edit, or virsh attach-disk --config).' };
}

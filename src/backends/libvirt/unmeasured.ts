import { isAbsolute } from 'node:path';
import { isFailure } from '../../core/failure.js';
import { addsUp, type LayerBelow } from '../../core/uneven-layers.js';
import { allOf, eachDisk } from '../../flow/all-of.js';
import { collectFailure } from '../../flow/collect-failure.js';
import { validateCheckpoint } from '../../libvirt/backup.js';
import type { Checkpoint, CheckpointDisk } from '../../libvirt/checkpoint-xml.js';
import type { DomainState } from '../../libvirt/domain-state.js';
import type { BackingImage, DomainDisk } from '../../libvirt/domain-xml.js';
import { isOfDifferentSizes, VirshError } from '../../libvirt/errors.js';
import type { Virsh } from '../../libvirt/virsh.js';
import { lookAtImage } from '../../qemu-tools/bitmaps.js';
import { imageFile } from '../../qemu-tools/image-file.js';

/**
 * libvirt measures all disks of a checkpoint at once, and one whose layers it cannot add up, as that of a disk which was grown
 * above an external snapshot, spoils it for the others. Only that one loses its parent: a disk goes on whose own layers
 * surely add up and whose bitmaps libvirt finds whole. Whoever asks has the domain's lock.
 */
export async function withInnocentDisks(virsh: Virsh, domain: DomainState): Promise<DomainState> {
  if (!domain.checkpoints.some(isUnmeasured)) return domain;
  return { ...domain, checkpoints: await allOf(domain.checkpoints.map((each) => judged(virsh, domain, each))) };
}

function isUnmeasured({ disks }: Checkpoint): boolean {
  return disks.some(({ unmeasured }) => unmeasured !== undefined);
}

async function judged(virsh: Virsh, domain: DomainState, checkpoint: Checkpoint): Promise<Checkpoint> {
  if (!isUnmeasured(checkpoint)) return checkpoint;
  const suspects = await suspectsOf(domain, checkpoint);
  const told =
    suspects.length > 0 &&
    suspects.length < checkpoint.disks.length &&
    (await hasWholeBitmaps(virsh, domain, checkpoint));
  return {
    ...checkpoint,
    disks: checkpoint.disks.map(({ unmeasured = '', ...disk }): CheckpointDisk => {
      if (!told) return { ...disk, unmeasured: SOME_DISK(unmeasured) };
      // What it marks nobody has counted.
      if (!suspects.includes(disk.target)) return { ...disk, changedBytes: undefined };
      return { ...disk, unmeasured: THIS_DISK(unmeasured) };
    }),
  };
}

const THIS_DISK = (words: string): string =>
  `libvirt cannot add up what its layers have recorded, as where a disk was grown above an external snapshot (${words.trim()})`;

const SOME_DISK = (words: string): string =>
  `libvirt cannot measure the checkpoint, as where a disk was grown above an external snapshot, this or another (${words.trim()})`;

/** Targets of those that may be the reason; none where libvirt's words are not of sizes. */
async function suspectsOf({ disks, sizes }: DomainState, checkpoint: Checkpoint): Promise<readonly string[]> {
  if (!checkpoint.disks.every(({ unmeasured }) => isOfDifferentSizes(unmeasured ?? ''))) return [];
  const found = await eachDisk(checkpoint.disks, async ({ target, bitmap }) => {
    const disk = disks.find((each) => each.target === target);
    const size = sizes.get(target)?.capacity;
    return disk && size !== undefined && addsUp(bitmap, size, await layersBelow(disk)) ? [] : [target];
  });
  return found.flat();
}

function layersBelow({ backing }: DomainDisk): Promise<readonly (LayerBelow | null)[]> {
  return Promise.all(backing.map(lookAtLayer));
}

/** A QEMU that runs has stored in an image what it has recorded for it, when it put another above. Null where nobody tells. */
async function lookAtLayer({ format, source }: BackingImage): Promise<LayerBelow | null> {
  const path = source?.path ?? null;
  if (format === null || path === null || !isAbsolute(path)) return null;
  // No other format keeps bitmaps.
  if (format !== 'qcow2') return { virtualSize: 0, bitmaps: [] };
  const seen = await collectFailure(imageFile({ path, format }).then((image) => lookAtImage(image, { shared: true })));
  if (isFailure(seen)) return null;
  return { virtualSize: seen.virtualSize, bitmaps: seen.bitmaps.map(({ name }) => name) };
}

async function hasWholeBitmaps(virsh: Virsh, { uuid }: DomainState, { name }: Checkpoint): Promise<boolean> {
  try {
    await validateCheckpoint(virsh, uuid, name);
    return true;
  } catch (error) {
    if (error instanceof VirshError) return false;
    throw error;
  }
}

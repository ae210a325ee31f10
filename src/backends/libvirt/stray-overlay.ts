import { basename } from 'node:path';
import { type BlockNodeSpec, fileNode, nameOfNode, qcow2Node } from '../../core/block-node.js';
import type { ImageLayer } from '../../core/overlay-layers.js';
import { isOverlay } from '../../core/overlay-names.js';
import { QmpBackupError } from '../../errors.js';
import { isThere } from '../../host/is-there.js';
import { dumpDefinition } from '../../libvirt/domain.js';
import { parseDomain } from '../../libvirt/domain-xml.js';
import { imagesOf } from '../../libvirt/image-layers.js';
import { type MergingDomain, removeOverlayFile } from '../../libvirt/merge-overlays.js';
import { isBeingWritten } from '../../qemu-tools/in-use.js';
import { readHeader } from '../../qemu-tools/examine.js';
import { imageFile, placeNode } from '../../qemu-tools/image-file.js';
import { compare } from '../../qemu-tools/steps.js';

/**
 * Removes an overlay that is in no chain of a running domain, where the image below it is in one and holds what it holds: it was merged, or
 * nobody ever wrote to it. The disk of any other may have been detached, or the domain defined anew, and it is all that there is of what a
 * guest wrote. Resolves to why it is left, in words.
 */
export async function removeStrayOverlay(session: MergingDomain, path: string): Promise<string | null> {
  if (!isOverlay(basename(path)) || !path.startsWith('/') || !(await isThere(path))) return null;
  const { virsh, uuid } = session;
  const [live, next] = await Promise.all([virsh('dumpxml', [], { domain: uuid }), dumpDefinition(virsh, uuid)]);
  const layers = layersIn(live);
  if ([...layers, ...layersIn(next)].some((each) => each.path === path)) return `${path} is needed by the domain`;
  if (await isBeingWritten(path)) return `${path} is open in a QEMU, and libvirt knows nothing of it`;
  const why = await whyNotMerged(path, layers);
  if (why !== null) return `${path} is above no disk of the domain, and ${why}; remove it when no disk needs it`;
  await removeOverlayFile(path);
  return null;
}

function layersIn(xml: string): readonly ImageLayer[] {
  return parseDomain(xml).disks.flatMap((disk) => imagesOf(disk));
}

async function whyNotMerged(path: string, layers: readonly ImageLayer[]): Promise<string | null> {
  const backing = await backingOf(path);
  const below = layers.find((layer) => layer.path !== null && layer.path === backing);
  if (below?.path == null) return `nor is what is below it (${backing ?? 'nothing that it tells of'})`;
  const image = await nodeOf(below.path, below.format);
  // The guest writes to the image: a difference may be of that, and equal bytes cannot.
  const same = await compare(nameOfNode(qcow2Node(fileNode(path), image)), nameOfNode(image), {
    cwd: '/',
    forceShare: true,
  });
  return same ? null : `holds what ${below.path} does not hold, of before it was merged, or of what never was`;
}

async function backingOf(path: string): Promise<string | null> {
  try {
    return (await readHeader(path, basename(path))).backingFile;
  } catch (error) {
    // libvirt, or QEMU, ended while it made it.
    if (error instanceof QmpBackupError && error.code === 'damaged') return null;
    throw error;
  }
}

async function nodeOf(path: string, format: string): Promise<BlockNodeSpec> {
  return { driver: format, file: placeNode((await imageFile({ path, format })).place) };
}

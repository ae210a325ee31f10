import { readdir } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { type BlockNodeSpec, fileNode, nameOfNode, qcow2Node } from '../../core/block-node.js';
import { type DetachedOverlay, detachedInWords, detachedTodo } from '../../core/detached-overlay.js';
import { isFailure } from '../../core/failure.js';
import { type ImageLayer, layersOf } from '../../core/overlay-layers.js';
import { isOverlay } from '../../core/overlay-names.js';
import { virshCommand } from '../../core/virsh-hint.js';
import { QmpBackupError } from '../../errors.js';
import { collectFailure } from '../../flow/collect-failure.js';
import { isThere } from '../../host/is-there.js';
import { dumpDefinition } from '../../libvirt/domain.js';
import { parseDomain } from '../../libvirt/domain-xml.js';
import { imagesOf } from '../../libvirt/image-layers.js';
import { type MergingDomain, removeOverlayFile } from '../../libvirt/merge-overlays.js';
import { isBeingWritten } from '../../qemu-tools/in-use.js';
import { readHeader } from '../../qemu-tools/examine.js';
import { imageFile, placeNode } from '../../qemu-tools/image-file.js';
import { compare } from '../../qemu-tools/steps.js';
import type { DomainSession } from './session.js';

/**
 * Overlays of a domain whose disks are attached no more: neither a run that died has left them, nor does anything else hold what is in
 * them. One whose image is in use without it is compared by the repair, and is here when that has told of it.
 */
export async function detachedOverlays({ virsh, uuid, domain }: Chained): Promise<readonly DetachedOverlay[]> {
  const next = parseDomain(await dumpDefinition(virsh, uuid)).disks.map(imagesOf);
  const attached = await pathsIn(domain.disks.map(imagesOf));
  const later = next.filter(
    ([top]) => top.path !== null && !attached.has(top.path) && layersOf([top]).overlays.length > 0,
  );
  const atNextStart = later.map(async ([top]): Promise<DetachedOverlay> => {
    const overlay = top.path ?? '';
    return { overlay, ...(await belowOf(overlay)), atNextStart: true, imageInUse: false };
  });
  const named = await pathsIn(next);
  const strays = domain.overlayRecords.filter(({ overlay }) => !attached.has(overlay) && !named.has(overlay));
  const lowest = strays.map(async ({ overlay, told }): Promise<readonly DetachedOverlay[]> => {
    const { buildsOn, image } = await belowOf(overlay);
    const imageInUse = image === null || attached.has(image) || named.has(image);
    if (!(await isThere(overlay)) || (imageInUse && !told)) return [];
    return [{ overlay, buildsOn, image, atNextStart: false, imageInUse }];
  });
  const found = (await Promise.all(lowest)).flat();
  // The one that the guest wrote to last is what the disk is attached by.
  const below = new Set(found.flatMap(({ buildsOn }) => buildsOn));
  return [...(await Promise.all(atNextStart)), ...found.filter(({ overlay }) => !below.has(overlay))];
}

/** As the headers tell, also of a domain that is off. */
export async function belowOf(overlay: string): Promise<Pick<DetachedOverlay, 'buildsOn' | 'image'>> {
  const chain = await ownChain(overlay);
  return { buildsOn: chain.slice(0, -1), image: chain.at(-1) ?? null };
}

/** Which of these overlays that are above no disk some disk has at the next start of the domain. */
export async function neededLater(
  { virsh, uuid }: Pick<Chained, 'virsh' | 'uuid'>,
  overlays: readonly string[],
): Promise<ReadonlySet<string>> {
  if (overlays.length === 0) return new Set();
  const named = await pathsIn(parseDomain(await dumpDefinition(virsh, uuid)).disks.map(imagesOf));
  return new Set(overlays.filter((path) => named.has(path)));
}

interface Chained extends Pick<DomainSession, 'virsh' | 'uuid'> {
  readonly domain: Pick<DomainSession['domain'], 'disks' | 'overlayRecords'>;
}

/** With those that the headers of our overlays tell, which libvirt may not name of a domain that is off. */
async function pathsIn(chains: readonly (readonly ImageLayer[])[]): Promise<ReadonlySet<string>> {
  const named = chains.flat().flatMap(({ path }) => path ?? []);
  return new Set([...named, ...(await pathsBelow(named))]);
}

async function pathsBelow(paths: readonly string[]): Promise<ReadonlySet<string>> {
  return new Set((await Promise.all(paths.map(ownChain))).flat());
}

/** What is below an overlay of ours, down to the first image that is none. */
async function ownChain(path: string): Promise<readonly string[]> {
  if (!isOverlay(basename(path)) || !path.startsWith('/') || !(await isThere(path))) return [];
  const below = await backingOf(path);
  return below === null ? [] : [below, ...(await ownChain(below))];
}

/**
 * Removes an overlay that is in no chain of a running domain, where the image below it is in one and holds what it holds: it was merged, or
 * nobody ever wrote to it. The disk of any other may have been detached, or the domain defined anew, and it is all that there is of what a
 * guest wrote, with what it builds on: `others` are overlays that may build on this one. Resolves to why it is left; null where it is gone.
 */
export async function removeStrayOverlay(
  session: MergingDomain,
  path: string,
  others: readonly string[],
): Promise<LeftOverlay | null> {
  if (!isOverlay(basename(path)) || !path.startsWith('/') || !(await isThere(path))) return null;
  const { virsh, uuid } = session;
  const [live, next] = await Promise.all([virsh('dumpxml', [], { domain: uuid }), dumpDefinition(virsh, uuid)]);
  const layers = layersIn(live);
  if ((await pathsIn([layers, ...parseDomain(next).disks.map(imagesOf)])).has(path))
    return { why: `${path} is needed by the domain`, lasts: false };
  if (await isBeingWritten(path))
    return { why: `${path} is open in a QEMU, and libvirt knows nothing of it`, lasts: false };
  // Also one of a run that died before anything told of it.
  for (const other of new Set([...others, ...(await overlaysBeside(path))])) {
    if (other === path) continue;
    const chain = await collectFailure(ownChain(other));
    if (isFailure(chain)) {
      // Of another domain, whose run has just removed it.
      if (!(await isThere(other))) continue;
      return { why: `${path} stays while it cannot be told what ${other} builds on: ${chain.failed}`, lasts: false };
    }
    if (chain.includes(path)) return { why: `${other} builds on ${path}, which stays with it`, lasts: true };
  }
  const { buildsOn, image } = await belowOf(path);
  if (image !== null && !layers.some((each) => each.path === image)) {
    const detached: DetachedOverlay = { overlay: path, buildsOn, image, atNextStart: false, imageInUse: false };
    const attach = virshCommand(session.domain.connect, 'attach-disk', session.domain.name);
    return { why: `${detachedInWords(detached)}. ${detachedTodo(detached, attach)}`, lasts: true };
  }
  const why = await whyNotMerged(path, layers);
  if (why !== null)
    return { why: `${path} is above no disk of the domain, and ${why}; remove it when no disk needs it`, lasts: true };
  await removeOverlayFile(path);
  return null;
}

async function overlaysBeside(path: string): Promise<readonly string[]> {
  const folder = dirname(path);
  return (await readdir(folder)).filter(isOverlay).map((name) => join(folder, name));
}

interface LeftOverlay {
  /** In words. */
  readonly why: string;
  /** It is so until a person does something. */
  readonly lasts: boolean;
}

/** One that builds on others goes before them. */
export async function uppermostFirst(overlays: readonly string[]): Promise<readonly string[]> {
  const depths = await Promise.all(overlays.map(async (path) => ({ path, depth: (await ownChain(path)).length })));
  return depths.toSorted((a, b) => b.depth - a.depth).map(({ path }) => path);
}

function layersIn(xml: string): readonly ImageLayer[] {
  return parseDomain(xml).disks.flatMap((disk) => imagesOf(disk));
}

async function whyNotMerged(path: string, layers: readonly ImageLayer[]): Promise<string | null> {
  const chain = await ownChain(path);
  const depth = chain.findIndex((each) => layers.some((layer) => layer.path === each));
  const below = layers.find((layer) => layer.path !== null && layer.path === chain[depth]);
  if (below?.path == null) return `nor is what is below it (${chain[0] ?? 'nothing that it tells of'})`;
  const image = await nodeOf(below.path, below.format);
  // Where several were merged at once, with those between.
  const overlaid = [path, ...chain.slice(0, depth)].reduceRight(
    (node: BlockNodeSpec, overlay) => qcow2Node(fileNode(overlay), node),
    image,
  );
  // The guest writes to the image: a difference may be of that, and equal bytes cannot.
  const same = await compare(nameOfNode(overlaid), nameOfNode(image), {
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

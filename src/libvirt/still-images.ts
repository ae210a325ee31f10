/**
 * Images below overlays that track must stand still between two runs. What they were like is recorded when a run has put the overlay above
 * them, and again when one of our own changes to them is done; so whatever else changes them is noticed.
 */
import { layersOf } from '../core/overlay-layers.js';
import { isTrackingOverlay } from '../core/overlay-names.js';
import { type ImageState, type OverlayRecord, whyNotStill } from '../core/overlay-record.js';
import { imageState } from '../host/image-state.js';
import { isThere } from '../host/is-there.js';
import { parseDomain } from './domain-xml.js';
import { imagesOf } from './image-layers.js';
import { keepOverlayRecords } from './overlay-records.js';
import type { Virsh } from './virsh.js';

interface RecordedDomain {
  readonly virsh: Virsh;
  readonly uuid: string;
}

/** Of new overlays, once the domain runs on them. @throws QmpBackupError */
export async function recordOverlays(domain: RecordedDomain, paths: readonly string[]): Promise<void> {
  const seen = await look(domain);
  const kept = seen.records.filter(({ overlay }) => !paths.includes(overlay));
  const made = seen.chains.filter(({ overlay }) => paths.includes(overlay));
  await keep(domain, seen, [...kept, ...(await Promise.all(made.map(asItIs)))]);
}

/**
 * Says beforehand that a commit of ours, or the deletion of a bitmap, writes to images of these disks: to all, or to those that are named.
 * What was not as recorded before stays so.
 */
export async function announceChange(
  domain: RecordedDomain,
  targets: readonly string[],
  { images }: { readonly images?: readonly string[] } = {},
): Promise<void> {
  const seen = await look(domain);
  const records = await Promise.all(
    seen.records.map(async (record): Promise<OverlayRecord> => {
      const chain = seen.chains.find(({ overlay, target }) => overlay === record.overlay && targets.includes(target));
      if (!chain || (images && !chain.below.some((image) => images.includes(image)))) return record;
      const now = await Promise.all(chain.below.map(imageState));
      return whyNotStill(record, now) === null ? { ...record, changing: true } : record;
    }),
  );
  await keep(domain, seen, records);
}

/** When it is done. What is recorded of overlays that are in no chain, and whose files are gone, goes. */
export async function settleRecords(domain: RecordedDomain, targets: readonly string[]): Promise<void> {
  const seen = await look(domain);
  const records = seen.records.map(async (record): Promise<readonly OverlayRecord[]> => {
    const chain = seen.chains.find(({ overlay }) => overlay === record.overlay);
    if (!chain) return (await isThere(record.overlay)) ? [record] : [];
    return [record.changing && targets.includes(chain.target) ? await asItIs(chain) : record];
  });
  await keep(domain, seen, (await Promise.all(records)).flat());
}

/** An overlay that is above no disk, and stays: it is told of once, and known for as long as it is there. */
export async function markTold(domain: RecordedDomain, path: string): Promise<void> {
  const seen = await look(domain);
  const told = seen.records.map((each): OverlayRecord => (each.overlay === path ? { ...each, told: true } : each));
  await keep(domain, seen, told);
}

/** Its file is gone. */
export async function forgetOverlay(domain: RecordedDomain, path: string): Promise<void> {
  const seen = await look(domain);
  await keep(
    domain,
    seen,
    seen.records.filter(({ overlay }) => overlay !== path),
  );
}

interface Seen {
  readonly active: boolean;
  /** As they are kept. */
  readonly kept: readonly OverlayRecord[];
  /** As they are now: what was told of an overlay is over when a disk is on it again. */
  readonly records: readonly OverlayRecord[];
  readonly chains: readonly Chain[];
}

/** An overlay that tracks. */
interface Chain {
  readonly target: string;
  readonly overlay: string;
  /** Nearest first. */
  readonly below: readonly string[];
}

async function look({ virsh, uuid }: RecordedDomain): Promise<Seen> {
  const { active, disks, overlayRecords } = parseDomain(await virsh('dumpxml', [], { domain: uuid }));
  const chains = disks.flatMap((disk): readonly Chain[] => {
    const layers = imagesOf(disk);
    return layersOf(layers).overlays.flatMap(({ name, path, depth }) => {
      const below = layers.slice(depth + 1).map(({ description }) => description);
      return isTrackingOverlay(name) ? [{ target: disk.target, overlay: path, below }] : [];
    });
  });
  const records = overlayRecords.map(({ told, ...record }): OverlayRecord => {
    const isAttached = chains.some(({ overlay }) => overlay === record.overlay);
    return told && !isAttached ? { ...record, told } : record;
  });
  return { active, kept: overlayRecords, records, chains };
}

async function asItIs({ overlay, below }: Chain): Promise<OverlayRecord> {
  const states: readonly ImageState[] = await Promise.all(below.map(imageState));
  return { overlay, below: states, changing: false };
}

async function keep({ virsh, uuid }: RecordedDomain, seen: Seen, records: readonly OverlayRecord[]): Promise<void> {
  if (JSON.stringify(records) === JSON.stringify(seen.kept)) return;
  await keepOverlayRecords(virsh, { uuid, active: seen.active }, records);
}

/** Disks that the definition names by pool and volume, as what the volume is. */
import type { DiskSize, DomainState } from './domain-state.js';
import type { DomainDefinition, DomainDisk } from './domain-xml.js';
import { VirshError } from './errors.js';
import type { Virsh } from './virsh.js';
import { attribute, find, parseXml, textAt } from './xml.js';

interface Volume {
  readonly kind: 'file' | 'block' | 'network';
  /** As libvirt's host sees it. */
  readonly path: string | null;
  readonly size: DiskSize;
}

/** The disks that are volumes of a pool, as the files or devices that these are. Of a domain that is off only the pool tells sizes. */
export async function withVolumes(
  virsh: Virsh,
  definition: DomainDefinition,
  told: ReadonlyMap<string, DiskSize | null>,
): Promise<Pick<DomainState, 'sizes' | 'unsized'> & { readonly definition: DomainDefinition }> {
  const volumes = await volumesOf(virsh, definition.disks);
  const sizes = new Map(told);
  const unsized = new Map<string, string>();
  const disks = definition.disks.map((disk): DomainDisk => {
    const { target, source } = disk;
    const volume = volumes.get(target);
    if (!volume || !source) return disk;
    if ('failed' in volume) {
      unsized.set(target, volume.failed);
      return disk;
    }
    if (volume.path !== null) sizes.set(target, told.get(target) ?? volume.size);
    else unsized.set(target, `its pool has it as a ${volume.kind} volume`);
    return volume.path === null ? disk : { ...disk, source: { ...source, type: volume.kind, path: volume.path } };
  });
  return { definition: { ...definition, disks }, sizes, unsized };
}

/** By target; in libvirt's words where it does not find one: its pool is not active, say. */
async function volumesOf(
  virsh: Virsh,
  disks: readonly DomainDisk[],
): Promise<ReadonlyMap<string, Volume | { readonly failed: string }>> {
  const found = await Promise.all(
    disks.map(async ({ target, source }) => {
      if (!source?.volume) return [];
      return [[target, await volumeAt(virsh, source.volume)] as const];
    }),
  );
  return new Map(found.flat());
}

async function volumeAt(
  virsh: Virsh,
  { pool, name }: { readonly pool: string; readonly name: string },
): Promise<Volume | { readonly failed: string }> {
  try {
    return parseVolume(await virsh('vol-dumpxml', ['--pool', pool, '--vol', name]));
  } catch (error) {
    if (error instanceof VirshError) return { failed: error.words };
    throw error;
  }
}

/** libvirt looks at the volume anew for this. */
export function parseVolume(xml: string): Volume {
  const volume = parseXml(xml, 'volume');
  const bytes = (name: string): number => Number(textAt(volume, name) ?? 0);
  const type = attribute(volume, 'type');
  const path = textAt(volume, 'target', 'path');
  const kind = type === 'file' || type === 'block' ? type : 'network';
  return {
    kind,
    path: kind !== 'network' && path?.startsWith('/') ? path : null,
    size: {
      capacity: bytes('capacity'),
      allocation: bytes('allocation'),
      physical: find(volume, 'physical') ? bytes('physical') : null,
    },
  };
}

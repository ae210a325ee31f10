import type { Catalog } from './catalog.js';
import { recordedBitmaps } from './chain.js';
import type { Machine, SourceDisk } from './disk.js';

/** Which VM a target belongs to: its UUID, else its name, else the bitmaps and image paths that it carries. */
export type VmIdentity = Catalog['vm'];

/** `label` is `--vm-name`; it stands in for a name. */
export function identityOf(machine: Machine, label: string | null): VmIdentity {
  return { uuid: machine.uuid, name: machine.name, label };
}

/** What a catalog records: a run that was told less than an earlier one takes nothing away. */
export function rememberedIdentity(recorded: VmIdentity | undefined, seen: VmIdentity): VmIdentity {
  return {
    uuid: seen.uuid ?? recorded?.uuid ?? null,
    name: seen.name ?? recorded?.name ?? null,
    label: seen.label ?? recorded?.label ?? null,
  };
}

/** What people call the VM, or null when it has neither name nor UUID and none was given. */
export function displayName({ uuid, name, label }: VmIdentity): string | null {
  return label ?? name ?? uuid;
}

/** Why the target of `catalog` belongs to another VM, or undefined when it is this one's. */
export function whyAnotherVm(
  recorded: VmIdentity,
  seen: VmIdentity,
  catalog: Catalog | undefined,
  sources: readonly SourceDisk[],
): string | undefined {
  if (recorded.uuid !== null && seen.uuid !== null) {
    return recorded.uuid === seen.uuid ? undefined : `it belongs to ${describe(recorded)}, this is ${describe(seen)}`;
  }
  const [recordedName, seenName] = [recorded.label ?? recorded.name, seen.label ?? seen.name];
  if (recordedName !== null && seenName !== null) {
    return recordedName === seenName ? undefined : `it belongs to ${describe(recorded)}, this is ${describe(seen)}`;
  }
  // A first run that died has sealed nothing that could be mixed up.
  if (!catalog || catalog.points.length === 0) return undefined;
  return carriesSomethingOf(catalog, sources)
    ? undefined
    : `it belongs to ${describe(recorded)}, and no disk of this VM carries one of its bitmaps or images`;
}

function carriesSomethingOf(catalog: Catalog, sources: readonly SourceDisk[]): boolean {
  const bitmaps = recordedBitmaps(catalog);
  const files = new Set(catalog.points.flatMap(({ disks }) => disks.map(({ source }) => source.file)));
  return sources.some(
    // A relative path means another image under another working directory.
    ({ bitmaps: own, file }) => own.some(({ name }) => bitmaps.has(name)) || (file.startsWith('/') && files.has(file)),
  );
}

function describe({ uuid, name, label }: VmIdentity): string {
  const called = label ?? name;
  return `VM ${[called, uuid === null ? null : `UUID ${uuid}`].filter((part) => part !== null).join(', ') || 'without name and UUID'}`;
}

import type { Catalog } from './catalog.js';
import { recordedBitmaps } from './chain.js';
import type { Machine, SourceDisk } from './disk.js';
import { asShellWord } from './shell-word.js';

/** Which VM a target belongs to: its UUID, else its name, else the bitmaps and image paths that it carries. */
export type VmIdentity = Catalog['vm'];

/** Where nothing tells which one it is. */
export const UNKNOWN_VM: VmIdentity = { uuid: null, name: null, label: null };

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

/**
 * Why the target of `catalog` belongs to another VM, or undefined when it is this one's. A clone has its original's name, so
 * a name is believed only together with a bitmap or an image; or where a person gave it, by `--vm-name`.
 */
export function whyAnotherVm(
  recorded: VmIdentity,
  seen: VmIdentity,
  catalog: Catalog | undefined,
  sources: readonly SourceDisk[],
): string | undefined {
  if (recorded.uuid !== null && seen.uuid !== null) {
    return recorded.uuid === seen.uuid ? undefined : `it belongs to ${describe(recorded)}, this is ${describe(seen)}`;
  }
  const names = [recorded.label ?? recorded.name, seen.label ?? seen.name] as const;
  const [recordedName, seenName] = names;
  const bothNamed = recordedName !== null && seenName !== null;
  if (bothNamed && recordedName !== seenName) return `it belongs to ${describe(recorded)}, this is ${describe(seen)}`;
  if (bothNamed && seen.label !== null) return undefined;
  // A first run that died has sealed nothing that could be mixed up.
  if (!catalog || catalog.points.length === 0) return undefined;
  if (carriesSomethingOf(catalog, sources, { named: bothNamed })) return undefined;
  const nothing = 'no disk of this VM carries one of its bitmaps or images';
  return bothNamed
    ? `this VM has the name of ${describe(recorded)}, to which it belongs, and nothing else of it: ${nothing}`
    : `it belongs to ${describe(recorded)}, and ${nothing}`;
}

/** What to do about a target of another VM; what it names works. */
export function wayOn(recorded: VmIdentity, seen: VmIdentity): string {
  const another = 'Choose another --target';
  const name = recorded.label ?? recorded.name;
  if (recorded.uuid !== null && seen.uuid !== null) return `${another}: a VM with a new UUID is a new one.`;
  if (name === null)
    return `${another}. If it is the same VM, and all its images were moved, its chain begins anew there.`;
  return `${another}; if it is the same VM (renamed, or all its images were moved), say so: --vm-name ${asShellWord(name)}`;
}

function carriesSomethingOf(
  catalog: Catalog,
  sources: readonly SourceDisk[],
  { named }: { readonly named: boolean },
): boolean {
  const bitmaps = recordedBitmaps(catalog);
  const files = new Set(catalog.points.flatMap(({ disks }) => disks.map(({ source }) => source.file)));
  // A relative path means another image under another working directory: by itself it proves nothing.
  const isKnown = (file: string): boolean => (named || file.startsWith('/')) && files.has(file);
  return sources.some(
    ({ bitmaps: own, file, backing = [] }) =>
      own.some(({ name }) => bitmaps.has(name)) || [file, ...backing].some(isKnown),
  );
}

function describe({ uuid, name, label }: VmIdentity): string {
  const called = label ?? name;
  return `VM ${[called, uuid === null ? null : `UUID ${uuid}`].filter((part) => part !== null).join(', ') || 'without name and UUID'}`;
}

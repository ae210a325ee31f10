import { format } from 'date-fns/format';
import { lstat, readdir } from 'node:fs/promises';
import { basename } from 'node:path';
import type { Catalog } from '../core/catalog.js';
import type { SourceDisk } from '../core/disk.js';
import { displayName, type VmIdentity, wayOn, whyAnotherVm } from '../core/identity.js';
import { filesOf } from '../core/journal-parts.js';
import type { Journal } from '../core/journal.js';
import { type Warning, warning } from '../core/warning.js';
import { messageOf, QmpBackupError } from '../errors.js';
import { codeOf } from '../host/file-errors.js';
import { readCatalog } from './catalog-file.js';
import { readJournal } from './journal-file.js';
import { diskFolder, monthFolder, siblingMonths } from './layout.js';
import { vmFolder } from './vm-folder.js';

/** What a target folder says about itself, read once at the start of a run. */
export interface TargetState {
  readonly target: string;
  readonly catalog: Catalog | undefined;
  readonly journal: Journal | undefined;
  readonly olderMonths: readonly Catalog[];
  /** Older months that cannot be read; their bitmaps stay. */
  readonly warnings: readonly Warning[];
}

/** The folder of this run: `target` itself, or with `--monthly` its sub-folder for the VM and the month. */
export async function targetFolder(target: string, monthly: boolean, vm: VmIdentity, now: Date): Promise<string> {
  if (!monthly) return target;
  const name = displayName(vm);
  if (name === null) {
    throw new QmpBackupError('usage', '--monthly needs a name for the VM, and this one has neither name nor UUID', {
      hint: 'Give one with --vm-name NAME, or start QEMU with -name.',
    });
  }
  return monthFolder(await vmFolder(target, name), format(now, 'yyyy-MM'));
}

export async function readTarget(target: string, monthly: boolean): Promise<TargetState> {
  const [catalog, journal, months] = await Promise.all([
    readCatalog(target),
    readJournal(target),
    monthly ? siblingMonths(target) : [],
  ]);
  const older = months.filter((month) => basename(month) < basename(target));
  const warnings: Warning[] = [];
  const catalogs = await Promise.all(
    older.map((month) =>
      readCatalog(month).catch((error: unknown) => {
        warnings.push(
          warning('month-unreadable', `an older month cannot be read, so its bitmaps stay: ${messageOf(error)}`),
        );
        return undefined;
      }),
    ),
  );
  return { target, catalog, journal, olderMonths: catalogs.filter((each) => each !== undefined), warnings };
}

/** A target belongs to one VM. */
export function refuseOtherVm(state: TargetState, vm: VmIdentity, sources: readonly SourceDisk[]): void {
  const why = whyOtherVm(state, vm, sources);
  const recorded = ownerOf(state)?.vm;
  if (why === undefined || !recorded) return;
  throw new QmpBackupError('unsafe', `the target ${state.target} cannot be used for this VM: ${why}`, {
    hint: wayOn(recorded, vm),
  });
}

/** Why the target is that of another VM; undefined where it is this one's, or nobody's yet. */
export function whyOtherVm(state: TargetState, vm: VmIdentity, sources: readonly SourceDisk[]): string | undefined {
  const owner = ownerOf(state);
  return owner && whyAnotherVm(owner.vm, vm, owner.catalog, sources);
}

/**
 * Whose the target is. A month that is still empty is in a folder that has its name from the VM; where nothing but the
 * name says that it is this one, the month before tells more.
 */
function ownerOf({
  catalog,
  journal,
  olderMonths,
}: TargetState): { readonly vm: VmIdentity; readonly catalog: Catalog | undefined } | undefined {
  const vm = catalog?.vm ?? journal?.vm;
  if (vm) return { vm, catalog };
  const before = olderMonths.at(-1);
  // A VM with another UUID under the same name may have taken the place of the first.
  return before?.vm.uuid === null ? { vm: before.vm, catalog: before } : undefined;
}

/**
 * Names that a new file may not have, by folder: of what is there, and of what the catalog names, which may be away only for
 * now.
 */
export async function takenNames(
  { target, catalog }: Pick<TargetState, 'target' | 'catalog'>,
  folders: Iterable<string>,
): Promise<ReadonlyMap<string, readonly string[]>> {
  const there = await listFiles(target, folders);
  const taken = new Map([...there].map(([folder, names]) => [folder, [...names]]));
  // A file that is to be removed shall not be taken for a new one.
  const retired = (catalog?.retiredFiles ?? []).map(({ folder, file }) => `${folder}/${file}`);
  for (const path of [...filesOf(catalog), ...retired]) {
    const slash = path.indexOf('/');
    taken.get(path.slice(0, slash))?.push(path.slice(slash + 1));
  }
  return taken;
}

/** Names of the files in the folders of `disks`; a folder that does not exist holds none. */
export async function listFiles(
  target: string,
  disks: Iterable<string>,
): Promise<ReadonlyMap<string, readonly string[]>> {
  const folders = await Promise.all(
    [...new Set(disks)].map(async (disk) => [disk, await namesIn(diskFolder(target, disk))] as const),
  );
  return new Map(folders);
}

async function namesIn(folder: string): Promise<readonly string[]> {
  try {
    // What is in a target may not lead out of it.
    if ((await lstat(folder)).isSymbolicLink()) throw new Error('it is a symbolic link');
    return await readdir(folder);
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return [];
    throw new QmpBackupError('unsafe', `cannot read the folder ${folder}: ${messageOf(error)}`, {
      cause: error,
      hint: 'A disk folder must be a folder that this user can read.',
    });
  }
}

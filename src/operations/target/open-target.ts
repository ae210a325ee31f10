import { lstat, readdir } from 'node:fs/promises';
import { basename } from 'node:path';
import type { Catalog, Journal } from '../../domain/catalog.js';
import type { SourceDisk } from '../../domain/disk.js';
import { displayName, type VmIdentity, whyAnotherVm } from '../../domain/identity.js';
import { messageOf, QmpBackupError } from '../../errors.js';
import { readCatalog } from '../../repository/catalog-file.js';
import { codeOf } from '../../repository/file-errors.js';
import { readJournal } from '../../repository/journal-file.js';
import { diskFolder, monthFolder, siblingMonths } from '../../repository/layout.js';

/** What a target folder says about itself, read once at the start of a run. */
export interface TargetState {
  readonly target: string;
  readonly catalog: Catalog | undefined;
  readonly journal: Journal | undefined;
  readonly olderMonths: readonly Catalog[];
  /** Older months that cannot be read; their bitmaps stay. */
  readonly warnings: readonly string[];
}

/** The folder of this run: `target` itself, or with `--monthly` its sub-folder for the VM and the month. */
export function targetFolder(target: string, monthly: boolean, vm: VmIdentity, month: () => string): string {
  if (!monthly) return target;
  const name = displayName(vm);
  if (name === null) {
    throw new QmpBackupError('usage', '--monthly needs a name for the VM, and this one has neither name nor UUID', {
      hint: 'Give one with --vm-name NAME, or start QEMU with -name.',
    });
  }
  return monthFolder(target, name, month());
}

export async function readTarget(target: string, monthly: boolean): Promise<TargetState> {
  const [catalog, journal, months] = await Promise.all([
    readCatalog(target),
    readJournal(target),
    monthly ? siblingMonths(target) : [],
  ]);
  const older = months.filter((month) => basename(month) < basename(target));
  const warnings: string[] = [];
  const catalogs = await Promise.all(
    older.map((month) =>
      readCatalog(month).catch((error: unknown) => {
        warnings.push(`an older month cannot be read, so its bitmaps stay: ${messageOf(error)}`);
        return undefined;
      }),
    ),
  );
  return { target, catalog, journal, olderMonths: catalogs.filter((each) => each !== undefined), warnings };
}

/** A target belongs to one VM. */
export function refuseOtherVm(state: TargetState, vm: VmIdentity, sources: readonly SourceDisk[]): void {
  const recorded = state.catalog?.vm ?? state.journal?.vm;
  const why = recorded && whyAnotherVm(recorded, vm, state.catalog, sources);
  if (why === undefined) return;
  throw new QmpBackupError('unsafe', `the target ${state.target} cannot be used for this VM: ${why}`, {
    hint: 'Choose another --target; if it is the same VM under a new name, give the old one with --vm-name.',
  });
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

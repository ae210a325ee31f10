import type { Catalog } from './catalog.js';
import { knownDisks, latestTracked, neededBitmaps, recordedBitmaps } from './chain.js';
import type { DirtyBitmap, JobState, OwnNode, SourceDisk, VmState } from './disk.js';
import { filesOf, unsealedOf, withUnrecordedBitmap } from './journal-parts.js';
import type { FrozenGuest, Journal } from './journal.js';
import { isOurBitmap, isOurJob, isScratchFolder, type NodeRole, PARTIAL_SUFFIX } from './names.js';
import { isOverlayOf } from './overlay-names.js';
import { PIECES_SUFFIX } from './pieces.js';

/**
 * What has to be repaired before a run may begin: a pure function from what is seen (catalog, journal, bitmaps, jobs,
 * files) to a list of actions. A bitmap or file goes only if a journal names it and the catalog does not, or if this
 * catalog retired it: an unknown bitmap may be another target's live chain.
 */
export interface Observed {
  readonly catalog: Catalog | undefined;
  /** Catalogs of the older months of a `--monthly` target. */
  readonly olderMonths: readonly Catalog[];
  readonly journal: Journal | undefined;
  readonly sources: readonly SourceDisk[];
  readonly jobs: readonly JobState[];
  /** `paused`, `running` … as QEMU says. */
  readonly status: string;
  readonly ownNodes: readonly OwnNode[];
  readonly ownExports: readonly string[];
  /** Names of the files in each disk folder that the journal names. */
  readonly files: ReadonlyMap<string, readonly string[]>;
}

export type RepairAction =
  | { readonly kind: 'thaw'; readonly guest: FrozenGuest }
  | { readonly kind: 'continue' }
  | { readonly kind: 'end-job'; readonly job: string; readonly concluded: boolean }
  | { readonly kind: 'remove-export'; readonly id: string }
  | { readonly kind: 'stop-nbd-server' }
  /** The guest device gets back the node that the filter is above. */
  | { readonly kind: 'take-out-filter'; readonly qdev: string; readonly filter: string; readonly node: string }
  | { readonly kind: 'remove-node'; readonly node: string }
  /** Absolute path. */
  | { readonly kind: 'delete-scratch'; readonly folder: string }
  | { readonly kind: 'remove-bitmap'; readonly node: string; readonly bitmap: string; readonly why: string }
  | RedefineCheckpoint
  | { readonly kind: 'delete-file'; readonly disk: string; readonly file: string }
  | { readonly kind: 'delete-folder'; readonly disk: string }
  /** What the guest has written above the image of a disk (its target) goes down into it, and the overlay goes. */
  | { readonly kind: 'merge-overlay'; readonly target: string; readonly overlay: string }
  /** Absolute path of an overlay that is in the chain of no disk. */
  | { readonly kind: 'delete-overlay'; readonly path: string }
  /** A libvirt domain (UUID) that the run had started paused. */
  | { readonly kind: 'end-domain'; readonly domain: string }
  | { readonly kind: 'remove-journal' };

/** libvirt has forgotten a checkpoint that the newest files need, and whose bitmaps may still be in the images. */
export interface RedefineCheckpoint {
  readonly kind: 'redefine-checkpoint';
  readonly checkpoint: string;
  /** When its point was made; ISO 8601. */
  readonly createdAt: string;
  /** Targets of the disks whose files were sealed with it, as far as the domain still has them. */
  readonly disks: readonly string[];
}

export function reconcile(observed: Observed): readonly RepairAction[] {
  const { journal, catalog } = observed;
  const dead = journal && unsealedOf(journal, catalog);
  return [
    ...(journal ? guestFirst(journal, observed.status) : []),
    ...endJobs(observed),
    ...dismantle(observed),
    ...(dead ? dropBitmaps(observed, dead, `made by the run of ${dead.startedAt}, which died`) : []),
    ...(dead ? dropFiles(observed, dead) : []),
    // What a run that died after its seal had left to do. Without a journal that is for the next seal: a run that is
    // refused changes nothing.
    ...(journal ? retire(observed) : []),
    ...(journal ? deleteOverlays(observed, journal) : []),
    ...releaseVm(observed),
    // When libvirt has no more to do in it, and while the journal still says so.
    ...(journal?.starts !== undefined && observed.status === 'paused'
      ? [{ kind: 'end-domain', domain: journal.starts } as const]
      : []),
    ...(journal ? [{ kind: 'remove-journal' } as const] : []),
  ];
}

/** What disks that failed in a run which goes on leave behind: what a dead run would, of these disks alone. */
export function dropFailed(
  observed: Pick<Observed, 'catalog' | 'sources' | 'jobs' | 'files'>,
  failed: Journal,
): readonly RepairAction[] {
  const jobs = observed.jobs.filter(({ id }) => failed.disks.some(({ job }) => job === id));
  return [...endJobs({ jobs }), ...dropBitmaps(observed, failed, COPY_FAILED), ...dropFiles(observed, failed)];
}

const COPY_FAILED = 'the copy of its disk failed';

/** What is to go from the disks once a point is sealed: what it made superfluous, and what disks that failed in it still have. */
export function afterSeal(
  observed: Pick<Observed, 'catalog' | 'olderMonths' | 'sources' | 'journal'>,
): readonly RepairAction[] {
  const { journal, catalog } = observed;
  const failed = journal ? dropBitmaps(observed, unsealedOf(journal, catalog), COPY_FAILED) : [];
  return [...failed, ...retire(observed)];
}

/** Whatever else is wrong, a guest that a dead run froze or stopped goes on first. */
function guestFirst(journal: Journal, status: string): RepairAction[] {
  const actions: RepairAction[] = [];
  // The agent of a guest that stands still does not answer: first the VM goes on, then the guest is thawed.
  if (journal.stops && status === 'paused') actions.push({ kind: 'continue' });
  if (journal.freezes !== null) actions.push({ kind: 'thaw', guest: journal.freezes });
  return actions;
}

/** What needs no journal: what a dead run left in this QEMU, whichever target it served. */
export function reconcileVm(
  seen: Pick<Observed, 'jobs' | 'ownNodes' | 'ownExports'> & Partial<Pick<Observed, 'journal'>>,
): readonly RepairAction[] {
  return [...endJobs(seen), ...dismantle(seen), ...releaseVm(seen)];
}

/**
 * Takes apart what fleecing put into QEMU, from the top down, by whichever run it was put there: names of ours tell.
 * A filter is only taken out of a guest device that has exactly this filter open: above it may be a snapshot by now.
 */
export function dismantle({
  journal,
  ownNodes,
  ownExports,
}: Pick<Observed, 'ownNodes' | 'ownExports'> & Partial<Pick<Observed, 'journal'>>): RepairAction[] {
  const all = (role: NodeRole): readonly OwnNode[] => ownNodes.filter((each) => each.role === role);
  const remove = ({ node }: OwnNode): RepairAction => ({ kind: 'remove-node', node });
  // QEMU does not tell whose its one NBD server is. Ours starts after our nodes are there, and ends before they go: a
  // QEMU that has none of them was started again, and the server is somebody else's.
  const serving = ownExports.length > 0 || (journal?.servesNbd === true && all('snapshot').length > 0);
  const folders = [
    ...(journal?.scratch ?? []).filter((folder) => isScratchFolder(nameOf(folder))),
    ...all('scratch').flatMap(({ file }) => scratchFolderOf(file)),
  ];
  return [
    ...ownExports.map((id): RepairAction => ({ kind: 'remove-export', id })),
    ...(serving ? [{ kind: 'stop-nbd-server' } as const] : []),
    ...all('snapshot').map(remove),
    ...all('filter').flatMap(({ node, qdev, below }): RepairAction[] =>
      qdev === null || below === null ? [] : [{ kind: 'take-out-filter', qdev, filter: node, node: below }],
    ),
    ...all('filter').map(remove),
    ...all('scratch').map(remove),
    ...all('overlay').flatMap(({ node: overlay, qdev: target }): RepairAction[] =>
      target === null ? [] : [{ kind: 'merge-overlay', target, overlay }],
    ),
    ...all('probe').map(remove),
    ...[...new Set(folders)].map((folder): RepairAction => ({ kind: 'delete-scratch', folder })),
  ];
}

/** The VM may be migrated again: when nothing of ours is to be done in it any more. */
export function releaseVm({ ownNodes }: Pick<Observed, 'ownNodes'>): RepairAction[] {
  return ownNodes
    .filter(({ role }) => role === 'guard')
    .map(({ node }): RepairAction => ({ kind: 'remove-node', node }));
}

/** Those of a run that are above no disk any more, or never were. */
function deleteOverlays({ sources }: Pick<Observed, 'sources'>, { overlays = [] }: Journal): RepairAction[] {
  const above = new Set(sources.flatMap((source) => source.overlays?.map(({ path }) => path) ?? []));
  return overlays
    .filter(({ path }) => !above.has(path))
    .map(({ path }): RepairAction => ({ kind: 'delete-overlay', path }));
}

function scratchFolderOf(file: string | null): readonly string[] {
  const folder = file?.split('/').slice(0, -1).join('/') ?? '';
  return folder.startsWith('/') && isScratchFolder(nameOf(folder)) ? [folder] : [];
}

function nameOf(path: string): string {
  return path.split('/').pop() ?? '';
}

/** Jobs of ours: whoever holds the VM's lock knows that no live run owns them, whichever target they served. */
function endJobs({ jobs }: Pick<Observed, 'jobs'>): RepairAction[] {
  return jobs
    .filter(isOurJob)
    .map(({ id, status }) => ({ kind: 'end-job', job: id, concluded: status === 'concluded' }));
}

function dropBitmaps(
  { sources, catalog }: Pick<Observed, 'sources' | 'catalog'>,
  dead: Journal,
  why: string,
): RepairAction[] {
  const names = new Set(withUnrecordedBitmap(dead, catalog).map(({ bitmap }) => bitmap));
  return bitmapsWhere(sources, (name) => (names.has(name) ? why : null));
}

/** After a rebase the point of a journal may be gone from the catalog, and its files those of another point. */
function dropFiles({ files, catalog }: Pick<Observed, 'files' | 'catalog'>, dead: Journal): RepairAction[] {
  const recorded = filesOf(catalog);
  const left = dead.disks.flatMap(({ disk, file }) => {
    const its = [file, `${file}${PIECES_SUFFIX}`];
    const goes = [...(recorded.has(`${disk}/${file}`) ? [] : its), ...its.map((name) => `${name}${PARTIAL_SUFFIX}`)];
    const there = (files.get(disk) ?? []).filter((name) => goes.includes(name));
    return there.map((name): RepairAction => ({ kind: 'delete-file', disk, file: name }));
  });
  return [...left, ...dead.madeFolders.map((disk): RepairAction => ({ kind: 'delete-folder', disk }))];
}

/**
 * Bitmaps that this catalog recorded and no longer needs. Those of older months go from a disk once that disk has a
 * sealed file in this month, with its bitmap in place.
 */
export function retire({
  catalog,
  olderMonths,
  sources,
}: Pick<Observed, 'catalog' | 'olderMonths' | 'sources'>): RepairAction[] {
  if (!catalog) return [];
  const recorded = recordedBitmaps(catalog);
  const needed = neededBitmaps(catalog);
  const older = new Set(olderMonths.flatMap((month) => [...recordedBitmaps(month)]));
  const latest = new Set(
    [...knownDisks(catalog).keys()]
      .map((disk) => latestTracked(catalog, disk)?.bitmap?.name)
      .filter((name) => name !== undefined),
  );
  return sources.flatMap((source) => {
    const carriesThisMonth = source.bitmaps.some(({ name, inconsistent }) => latest.has(name) && !inconsistent);
    return bitmapsWhere([source], (name) => {
      if (needed.has(name)) return null;
      if (recorded.has(name)) return 'a newer point has its own';
      if (isOverlayOf(catalog.targetId, name)) return 'no point was made with it';
      return older.has(name) && carriesThisMonth ? 'this month has its own' : null;
    });
  });
}

/** What can be repaired where the VM cannot be asked, and what has to wait until it can. */
export interface OfflineRepairs {
  readonly now: readonly RepairAction[];
  /** Files that a job in some QEMU is still writing. Removed they would take up space that nobody sees. */
  readonly inUse: readonly RepairAction[];
  /**
   * The journal stays: it alone knows which bitmaps and jobs of the dead run may be in QEMU or stored in an image. Null
   * where there is none.
   */
  readonly waiting: Journal | null;
}

/** The journal of a run that has nothing in any QEMU: an import, or a backup of a VM that was off. */
export function isWithoutVm({ owner }: Journal): boolean {
  return owner.kind === 'none';
}

/** `inUse` are the files, `<disk>/<file>`, that a QEMU has open for writing. */
export function reconcileOffline(
  { catalog, journal, files }: Pick<Observed, 'catalog' | 'journal' | 'files'>,
  inUse: ReadonlySet<string>,
): OfflineRepairs {
  const nothing = { olderMonths: [], sources: [], jobs: [], ownNodes: [], ownExports: [], status: 'unknown' };
  const all = reconcile({ catalog, journal, files, ...nothing });
  const withoutVm = journal !== undefined && isWithoutVm(journal);
  const possible = all.filter(
    ({ kind }) =>
      kind === 'thaw' ||
      kind === 'delete-file' ||
      kind === 'delete-folder' ||
      (withoutVm && (kind === 'delete-scratch' || kind === 'remove-journal')),
  );
  const isInUse = (action: RepairAction): boolean =>
    action.kind === 'delete-file' && inUse.has(`${action.disk}/${action.file}`);
  return {
    now: possible.filter((action) => !isInUse(action)),
    inUse: possible.filter(isInUse),
    waiting: withoutVm ? null : (journal ?? null),
  };
}

function bitmapsWhere(sources: readonly SourceDisk[], why: (name: string) => string | null): RepairAction[] {
  return sources.flatMap(({ address: node, bitmaps }) =>
    bitmaps.flatMap(({ name }): RepairAction[] => {
      const reason = why(name);
      return reason === null ? [] : [{ kind: 'remove-bitmap', node, bitmap: name, why: reason }];
    }),
  );
}

/**
 * The VM as the repairs will leave it, for a dry run to plan with. QEMU does not tell which bitmap a job reads, so with
 * the jobs of a dead run all of our bitmaps count as free. Whether the bitmaps of a forgotten checkpoint are whole is
 * known only when it is redefined: here they are taken for whole.
 */
export function afterRepairs(vm: VmState, actions: readonly RepairAction[]): VmState {
  const ended = new Set(actions.flatMap((action) => (action.kind === 'end-job' ? [action.job] : [])));
  const removed = actions.filter((action) => action.kind === 'remove-bitmap');
  const filters = actions.filter((action) => action.kind === 'take-out-filter');
  const redefined = actions.filter((action) => action.kind === 'redefine-checkpoint');
  return {
    ...vm,
    jobs: vm.jobs.filter(({ id }) => !ended.has(id)),
    ownNodes: [],
    ownExports: [],
    disks: vm.disks.map((disk) => ({
      ...disk,
      root: filters.find(({ filter }) => filter === disk.root)?.node ?? disk.root,
      bitmaps: [
        ...disk.bitmaps
          .filter(({ name }) => !removed.some(({ node, bitmap }) => node === disk.address && bitmap === name))
          .map((bitmap) => ({ ...bitmap, busy: bitmap.busy && !(ended.size > 0 && isOurBitmap(bitmap.name)) })),
        ...redefined
          .filter(({ disks }) => disks.includes(disk.address))
          .map(({ checkpoint }) => checkpointBitmap(checkpoint, disk.virtualSize)),
      ],
    })),
  };
}

/**
 * A checkpoint on one disk of a libvirt domain, as the bitmap that it is: what it marks at most, and what it marks where that
 * is known.
 */
export function checkpointBitmap(name: string, most: number, known: number | null = null): DirtyBitmap {
  return {
    ...{ name, granularity: 65536, recording: true, persistent: true, busy: false, inconsistent: false },
    ...(known === null ? { count: most, uncounted: true } : { count: known }),
  };
}

import { basename, dirname } from 'node:path';
import type { Catalog } from '../core/catalog.js';
import { UNKNOWN_VM, type VmIdentity } from '../core/identity.js';
import { QmpBackupError } from '../errors.js';
import { readCatalog, requireCatalog } from './catalog-file.js';
import { catalogsBelow, isMonth } from './layout.js';

/** Targets whose points are one line of time: a target, or the months that `--monthly` has made of one VM. */
export interface History {
  readonly vm: VmIdentity;
  /** Oldest first. */
  readonly targets: readonly { readonly target: string; readonly catalog: Catalog }[];
}

/** A target whose catalog cannot be read: nothing tells which history it is of. */
export interface UnreadTarget {
  readonly target: string;
  readonly error: QmpBackupError;
}

/**
 * The histories in a folder: it is a target, or has several below.
 *
 * @throws QmpBackupError as `requireCatalog`
 */
export async function historiesIn(root: string): Promise<readonly History[]> {
  const { histories, unread } = await readHistories(root);
  if (unread[0]) throw unread[0].error;
  return histories;
}

/** What a verb works on that goes through several VMs and is held up by none of them. */
export interface EachHistory {
  /** Each with why it has to be left as it is: a month that may be its own cannot be read. */
  readonly histories: readonly { readonly history: History; readonly error: QmpBackupError | null }[];
  /** The other targets that cannot be read. */
  readonly strays: readonly UnreadTarget[];
  /** There is one of all these: what is wrong with it is an error of the verb. */
  readonly alone: boolean;
}

/** @throws QmpBackupError as `requireCatalog`, where there is a single target */
export async function eachHistory(root: string): Promise<EachHistory> {
  const { histories: found, unread } = await readHistories(root);
  const histories = found.map((history) => ({ history, month: missingMonth(history, unread) }));
  const strays = unread.filter((each) => !histories.some(({ month }) => month === each));
  const alone = histories.length + strays.length === 1;
  if (alone && strays[0]) throw strays[0].error;
  return {
    histories: histories.map(({ history, month }) => ({ history, error: month?.error ?? null })),
    strays,
    alone,
  };
}

/** What a verb does with each of several VMs. */
export interface PerHistory<Done> {
  readonly work: (history: History) => Promise<Done>;
  /** One that is left as it is, and why. */
  readonly left: (vm: VmIdentity, targets: readonly string[], error: QmpBackupError) => Done;
}

/**
 * One VM after the other, of which none holds another up: neither one that another run has, nor one whose catalog cannot be read.
 *
 * @throws QmpBackupError what is wrong with the only one; of several only what ends the run
 */
export async function throughHistories<Done>(
  { histories, strays, alone }: EachHistory,
  signal: AbortSignal,
  { work, left }: PerHistory<Done>,
): Promise<readonly Done[]> {
  const done = strays.map(({ target, error }) => left(UNKNOWN_VM, [target], error));
  for (const { history, error: held } of histories) {
    signal.throwIfAborted();
    try {
      if (held) throw held;
      done.push(await work(history));
    } catch (error) {
      if (alone || !(error instanceof QmpBackupError) || error.code === 'interrupted') throw error;
      const targets = history.targets.map(({ target }) => target);
      done.push(left(history.vm, targets, error));
    }
  }
  return done;
}

async function readHistories(
  root: string,
): Promise<{ readonly histories: readonly History[]; readonly unread: readonly UnreadTarget[] }> {
  const { targets, unread } = await readTargets(root);
  const histories = new Map<string, History>();
  for (const each of targets) {
    const key = historyOf(each.target, each.catalog);
    const before = histories.get(key)?.targets ?? [];
    // The newest month tells best which VM it is.
    histories.set(key, { vm: each.catalog.vm, targets: [...before, each] });
  }
  return { histories: [...histories.values()], unread };
}

/**
 * The targets in a folder, by name: it is one, or has several below.
 *
 * @throws QmpBackupError `no-catalog` where there is none
 */
export async function readTargets(
  root: string,
): Promise<{ readonly targets: History['targets']; readonly unread: readonly UnreadTarget[] }> {
  const catalog = await readCatalog(root);
  if (catalog) return { targets: [{ target: root, catalog }], unread: [] };
  const folders = await catalogsBelow(root);
  if (folders.length === 0) await requireCatalog(root);
  const found = await Promise.all(folders.map((target) => readTargetOf(target)));
  return {
    targets: found.flatMap((each) => ('error' in each ? [] : [each])),
    unread: found.flatMap((each) => ('error' in each ? [each] : [])),
  };
}

async function readTargetOf(target: string): Promise<History['targets'][number] | UnreadTarget> {
  try {
    return { target, catalog: await requireCatalog(target) };
  } catch (error) {
    if (error instanceof QmpBackupError && error.code !== 'interrupted') return { target, error };
    throw error;
  }
}

/** One of `unread` that may be a month of this history. */
function missingMonth({ targets }: History, unread: readonly UnreadTarget[]): UnreadTarget | undefined {
  const folders = new Set(targets.flatMap(({ target }) => (isMonth(basename(target)) ? [dirname(target)] : [])));
  return unread.find(({ target }) => isMonth(basename(target)) && folders.has(dirname(target)));
}

/** Earlier versions had VMs with similar names meet in one folder. */
function historyOf(target: string, { vm }: Catalog): string {
  return isMonth(basename(target)) ? JSON.stringify([dirname(target), vm.uuid ?? vm.label ?? vm.name]) : target;
}

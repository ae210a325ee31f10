import { resolve } from 'node:path';
import { LOCK_OPTIONS, NAMED_VM_OPTIONS, TARGET_OPTIONS } from '../backends/vm-options.js';
import { contextOf, type VerbContext, type WarningEvent } from '../backends/verb-context.js';
import type { Catalog } from '../core/catalog.js';
import { noteText } from '../core/note.js';
import {
  type OptionRules,
  type RequestOf,
  requiredWord,
  type ValuesOf,
  valuesOf,
  yesOrNo,
} from '../core/option-rules.js';
import { nameIn, pointNamed } from '../core/point-name.js';
import type { Point } from '../core/point.js';
import { QmpBackupError } from '../errors.js';
import { unwinding } from '../flow/unwind.js';
import { toolName } from '../host/package-version.js';
import { requireCatalog, writeCatalog } from '../repository/catalog-file.js';
import { historiesIn } from '../repository/histories.js';
import { lockTarget } from '../repository/lock.js';
import { vmFolder } from '../repository/vm-folder.js';

const MARK_OPTIONS = {
  ...TARGET_OPTIONS,
  ...NAMED_VM_OPTIONS,
  ...LOCK_OPTIONS,
  /** See `pointNamed`. */
  point: requiredWord('<point>'),
};

export const PIN_OPTIONS = {
  ...MARK_OPTIONS,
  /** Why; without, its note stays as it is. */
  note: noteText('--note'),
} satisfies OptionRules;

export const UNPIN_OPTIONS = MARK_OPTIONS satisfies OptionRules;

export const NOTE_OPTIONS = {
  ...MARK_OPTIONS,
  /** The note. */
  text: noteText('[text]'),
  /** Takes the note away instead. */
  remove: yesOrNo('--remove'),
} satisfies OptionRules;

export type PinRequest = RequestOf<typeof PIN_OPTIONS>;
export type UnpinRequest = RequestOf<typeof UNPIN_OPTIONS>;
export type NoteRequest = RequestOf<typeof NOTE_OPTIONS>;

export type MarkContext = VerbContext<WarningEvent>;

/** A point as it is marked now. */
export interface MarkedPoint {
  readonly target: string;
  readonly point: Point;
  /** In words. */
  readonly name: string;
  /** It was not so before. */
  readonly changed: boolean;
}

/**
 * The point is neither pruned nor merged away from now on.
 *
 * @throws QmpBackupError `usage`, `no-catalog`, `locked`; `unsafe` where a rebase has merged it, or is about to
 */
export async function pin(request: PinRequest, given: Partial<MarkContext> = {}): Promise<MarkedPoint> {
  const options = valuesOf(PIN_OPTIONS, request);
  return change(options, given, (point, name) => {
    refuseMerged(point, name);
    return { ...point, pinned: true, ...(options.note !== null && { note: options.note }) };
  });
}

/** Its note stays. @throws QmpBackupError as `pin` */
export async function unpin(request: UnpinRequest, given: Partial<MarkContext> = {}): Promise<MarkedPoint> {
  return change(valuesOf(UNPIN_OPTIONS, request), given, (point) => ({ ...point, pinned: undefined }));
}

/** @throws QmpBackupError as `pin` */
export async function note(request: NoteRequest, given: Partial<MarkContext> = {}): Promise<MarkedPoint> {
  const options = valuesOf(NOTE_OPTIONS, request);
  const { text, remove } = options;
  if (remove === (text !== null)) {
    throw new QmpBackupError('usage', remove ? 'give a text or --remove, not both' : 'give the text of the note', {
      hint: 'qmpbackup note POINT TEXT writes it, qmpbackup note POINT --remove takes it away.',
    });
  }
  return change(options, given, (point) => ({ ...point, note: text ?? undefined }));
}

type Marks = ValuesOf<typeof MARK_OPTIONS>;

async function change(
  options: Marks,
  given: Partial<MarkContext>,
  mark: (point: Point, name: string) => Point,
): Promise<MarkedPoint> {
  const { signal } = contextOf(given);
  signal.throwIfAborted();
  const { target, id, name } = await findPoint(options);
  return unwinding(async (unwind) => {
    const lock = await lockTarget(target, { breakLock: options.breakLock, purpose: `a mark on ${name}` });
    unwind.defer(() => lock.release());
    // It may have been merged away meanwhile.
    const catalog = await requireCatalog(target);
    const before = pointNamed(catalog.points, id);
    const point = mark(before, name);
    const changed = before.pinned !== point.pinned || before.note !== point.note;
    signal.throwIfAborted();
    lock.signal.throwIfAborted();
    if (changed) await writeCatalog(target, withPoint(catalog, point));
    return { target, point, name, changed };
  });
}

interface Found {
  readonly target: string;
  readonly id: string;
  readonly name: string;
}

/** Among all months of a VM: `N` is of the newest chain of them. */
async function findPoint({ target, monthly, vmName, point }: Marks): Promise<Found> {
  const root = resolve(target);
  if (vmName !== null && !monthly) {
    throw new QmpBackupError('usage', '--vm-name goes with --monthly', {
      hint: 'It names the folder of one VM below --target.',
    });
  }
  const histories = await historiesIn(vmName === null ? root : await vmFolder(root, vmName));
  const [only, other] = histories;
  if (!only || other) {
    throw new QmpBackupError('usage', `${root} has backups of ${histories.length} VMs, and a point is of one`, {
      hint: 'Give the folder of one, or --monthly with --vm-name: see qmpbackup list --target DIR',
    });
  }
  const points = only.targets.flatMap(({ catalog }) => catalog.points);
  const found = pointNamed(points, point);
  const of = only.targets.find(({ catalog }) => catalog.points.includes(found));
  if (!of) throw new QmpBackupError('failed', `nobody has the point ${found.id}`);
  return { target: of.target, id: found.id, name: nameIn(found, points) };
}

function withPoint(catalog: Catalog, point: Point): Catalog {
  const points = catalog.points.map((each) => (each.id === point.id ? point : each));
  return { ...catalog, tool: toolName(), points };
}

/** What a rebase has begun to merge it has to finish. */
function refuseMerged({ disks }: Point, name: string): void {
  const lost = disks.find(({ state }) => state !== 'whole');
  if (!lost) return;
  const why = lost.state === 'merged' ? 'was merged into a later point' : 'is being merged into a later point';
  throw new QmpBackupError('unsafe', `${name} cannot be pinned: ${lost.disk} ${why}`, {
    hint: 'Pin a point that is whole: see qmpbackup list --target DIR',
  });
}

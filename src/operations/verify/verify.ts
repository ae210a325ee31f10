import { resolve } from 'node:path';
import { contextOf } from '../../backends/verb-context.js';
import { type TargetFinding, targetFinding } from '../../core/target-finding.js';
import type { Warn } from '../../core/warning.js';
import { QmpBackupError } from '../../errors.js';
import { unwinding } from '../../flow/unwind.js';
import { requireCatalog } from '../../repository/catalog-file.js';
import { targetsIn } from '../../repository/targets-below.js';
import { vmFolder } from '../../repository/vm-folder.js';
import { type VerifyTargetOptions, verifyOptions, type VerifyRequest } from './options.js';
import type { VerifiedTarget, VerifyContext, VerifyResult, VerifyRun } from './request.js';
import { alsoBooted } from './also-booted.js';
import { verifyTarget } from './verify-target.js';

/**
 * Says all that is wrong with a target, or with every target in the folders below it. What is found is returned, and not
 * thrown; the files of the backup are only read.
 *
 * @throws QmpBackupError `usage`; `no-catalog` where there is nothing of ours; `locked` for a single target
 */
export async function verify(request: VerifyRequest, given: Partial<VerifyContext> = {}): Promise<VerifyResult> {
  const [options, context] = [verifyOptions(request), contextOf(given)];
  const told = new Set<string>();
  const warn: Warn = (said) => {
    // A point that is started is opened again, and what is warned of then may have been said before.
    if (!told.has(said.text)) context.report({ kind: 'warning', ...said });
    told.add(said.text);
  };
  const { signal, now, report } = context;
  const run: VerifyRun = { options, signal, now, report, warn };
  signal.throwIfAborted();
  const root = await rootOf(options);
  const { targets, unreadable } = await targetsIn(root);
  if (targets.length + unreadable.length === 0) await requireCatalog(root);
  const isOfOne = options.trial !== null || options.point !== null;
  const [unread] = unreadable;
  if (isOfOne && targets.length === 0 && unread) throw unread.error;
  const [only] = targets.length === 1 && unreadable.length === 0 ? targets : [];
  if (options.trial && only === undefined) {
    throw new QmpBackupError('usage', `--boot is of one target, and ${root} has ${targets.length}`, {
      hint: 'Give the folder of one: see qmpbackup list --target DIR',
    });
  }
  if (options.point !== null && only === undefined) {
    throw new QmpBackupError(
      'usage',
      `${options.point.at ? '--at' : '--point'} is of one target, and ${root} has ${targets.length}`,
      {
        hint: 'Give the folder of one: see qmpbackup list --target DIR',
      },
    );
  }
  const verified = unreadable.map(({ folder, error }) => notLookedAt(folder, error));
  for (const target of targets) {
    signal.throwIfAborted();
    if (only === undefined) report({ kind: 'target', target });
    const one = unwinding((unwind) => verifyTarget(target, run, unwind));
    const found = await (only === undefined ? one.catch((error: unknown) => ifLocked(target, error)) : one);
    // The lock is free again by then: backups go on while it boots.
    verified.push(options.trial ? await alsoBooted(found, options.trial, run) : found);
  }
  return { targets: verified };
}

async function rootOf({ target, label }: VerifyTargetOptions): Promise<string> {
  const root = resolve(target);
  return label === null ? root : vmFolder(root, label);
}

/** Where others are looked at, one that a run is at work in holds nothing up. */
function ifLocked(target: string, error: unknown): VerifiedTarget {
  if (error instanceof QmpBackupError && error.code === 'locked') return notLookedAt(target, error);
  throw error;
}

function notLookedAt(target: string, error: QmpBackupError): VerifiedTarget {
  const told: Pick<TargetFinding, 'level' | 'code'> =
    error.code === 'locked' ? { level: 'warning', code: 'locked' } : { level: 'error', code: 'unreadable' };
  const finding = targetFinding({ ...told, subject: 'target', why: error.message, todo: error.hint ?? null });
  return {
    ...{ target, vm: null, targetId: null, findings: [finding] },
    ...{ repaired: [], points: 0, lost: [], files: 0, read: { files: 0, bytes: 0 }, booted: null },
  };
}

import { resolve } from 'node:path';
import type { BackupOptions } from '../../backends/backup-options.js';
import type { BackupRun } from '../../backends/backup-run.js';
import type { BackupPlan } from '../../core/plan.js';
import { defaultReserve, type SpaceNeed, spaceNeeded, tooLittleSpace } from '../../core/space.js';
import { warning } from '../../core/warning.js';
import { freeSpace } from '../../host/free-space.js';

/**
 * Compares what the plan can need with what the target has.
 *
 * @throws QmpBackupError `unsafe` where that is too little and `--force` was not given or cannot help
 */
export async function checkSpace(run: BackupRun, plan: BackupPlan): Promise<SpaceNeed & { readonly network: boolean }> {
  const space = await measureSpace(run, plan);
  const short = tooLittleSpace(space, {
    where: targetInWords(run.options.output ?? run.target),
    force: run.options.force,
  });
  if (short !== undefined) run.warn(warning('space-short', short));
  return space;
}

/** What the plan can need, and what the target has. */
export async function measureSpace(
  { target, options, signal }: BackupRun,
  plan: BackupPlan,
): Promise<SpaceNeed & { readonly network: boolean }> {
  const { reserve, stallTimeoutMs, output } = options;
  const { free, total, network } = await freeSpace(storedIn({ output, target }), { timeoutMs: stallTimeoutMs, signal });
  // Nothing of a stream is stored here.
  if (output === '-') return { need: 0, free, reserve: 0, network };
  return { need: spaceNeeded(plan.disks), free, reserve: reserve ?? defaultReserve({ total }), network };
}

/** Where the bytes of the disks go that are kept here. */
export function storedIn({ output, target }: Pick<BackupOptions, 'output' | 'target'>): string {
  return output === null || output === '-' ? resolve(target) : output;
}

export function targetInWords(target: string): string {
  return `the target ${target}`;
}

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
  const { reserve, force, stallTimeoutMs } = run.options;
  const { free, total, network } = await freeSpace(run.target, { timeoutMs: stallTimeoutMs, signal: run.signal });
  const space = { need: spaceNeeded(plan.disks), free, reserve: reserve ?? defaultReserve({ total }) };
  const short = tooLittleSpace(space, { where: targetInWords(run.target), force });
  if (short !== undefined) run.warn(warning('space-short', short));
  return { ...space, network };
}

export function targetInWords(target: string): string {
  return `the target ${target}`;
}

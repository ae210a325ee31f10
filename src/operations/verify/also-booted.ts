import { targetFinding } from '../../core/target-finding.js';
import { warning } from '../../core/warning.js';
import { messageOf, QmpBackupError } from '../../errors.js';
import { takesNothing } from '../../repository/disk-folder.js';
import { requireCatalog } from '../../repository/catalog-file.js';
import { lockTarget } from '../../repository/lock.js';
import { rememberBoot } from '../../repository/verified-file.js';
import { bootPoint } from './boot-point.js';
import type { BootTrial } from './options.js';
import type { BootedPoint, VerifiedTarget, VerifyRun } from './request.js';

/** What was found of a target, with what came of starting a point of it. */
export async function alsoBooted(found: VerifiedTarget, trial: BootTrial, run: VerifyRun): Promise<VerifiedTarget> {
  const { target, findings } = found;
  const booted = await unlessDamaged(found, run, bootPoint(target, trial, run));
  // What is wrong with the point is among the findings.
  if (!booted) return found;
  await remember(target, booted, run);
  const { name, proof } = booted;
  if (proof.why === null) return { ...found, booted };
  const why = `${name} does not boot: ${proof.why}`;
  const todo = 'Look at its screen and at its serial log (--evidence DIR), or start it by hand: qmpbackup boot';
  const finding = targetFinding({ level: 'error', code: 'no-boot', subject: 'target', why, todo });
  return { ...found, booted, findings: [finding, ...findings] };
}

async function unlessDamaged(
  { findings }: VerifiedTarget,
  { warn }: VerifyRun,
  booting: Promise<BootedPoint>,
): Promise<BootedPoint | undefined> {
  try {
    return await booting;
  } catch (error) {
    const isFound = findings.some(({ level }) => level === 'error');
    if (!isFound || !(error instanceof QmpBackupError) || error.code === 'interrupted') throw error;
    // What was found is told all the same.
    warn(warning('not-booted', `no point was started: ${messageOf(error)}`));
    return undefined;
  }
}

async function remember(target: string, { proof }: BootedPoint, { options, warn }: VerifyRun): Promise<void> {
  const { breakLock } = options;
  const lock = await lockTarget(target, { breakLock, purpose: 'verify --boot' }).catch((error: unknown) => {
    // A backup has begun meanwhile, or this user may only read.
    if (!takesNothing(error) && !(error instanceof QmpBackupError && error.code === 'locked')) throw error;
    warn(warning('not-remembered', `what came of it is not kept: ${messageOf(error)}`));
  });
  if (!lock) return;
  try {
    await rememberBoot(target, await requireCatalog(target), proof);
  } finally {
    await lock.release();
  }
}

import { counted } from '../../core/counted.js';
import type { BackupResult } from '../../backends/backup-run.js';
import { rawFileName } from '../../core/names.js';
import { table } from './table.js';
import { formatBytes, formatDuration, formatTime } from './units.js';

/** The result of `backup`, or what `--dry-run` would do. */
export function renderBackup(result: BackupResult, { isPoint }: { readonly isPoint: boolean }): string {
  return result.point ? renderPoint(result, result.point, isPoint) : renderPlan(result);
}

function renderPoint(
  { target, plan }: BackupResult,
  point: NonNullable<BackupResult['point']>,
  isPoint: boolean,
): string {
  const what = point.chain === null ? 'copy' : `point ${point.number} of chain ${point.chain}`;
  const rows = point.disks.map(({ disk, level, file, changed, allocated, durationMs }) => [
    `  ${disk}`,
    level.toUpperCase(),
    `${formatBytes(changed)} copied`,
    ...(isPoint ? [`${formatBytes(allocated)} on disk`] : []),
    formatDuration(durationMs),
    isPoint ? file : rawFileName(disk),
  ]);
  const done = isPoint ? `sealed ${what} in` : target === '-' ? 'streamed to' : 'raw copy in';
  const heading = `${done} ${target}, ${point.consistency}, ${formatTime(point.createdAt)}`;
  const out = plan.leftOut.flatMap(({ name, reason, kind }) =>
    kind === 'rule' || kind === 'failed' ? [`  ${name}: not in it, ${reason}`] : [],
  );
  return [heading, table(rows), ...out].join('\n');
}

function renderPlan({ target, plan, repairs, fleecing, space }: BackupResult): string {
  const rows = plan.disks.map(({ disk, level, file, reason }) => [`  ${disk}`, level.toUpperCase(), file, reason]);
  const out = plan.leftOut.map(({ name, reason }) => `  ${name}: left out, ${reason}`);
  const first =
    repairs.length > 0
      ? [`would first repair what an earlier run left behind (${counted(repairs.length, 'step')})`]
      : [];
  const heading = `would take point ${plan.number} (${plan.level}) in ${target}`;
  const room = `  it can need ${formatBytes(space.need)}; ${formatBytes(space.free)} are free there, ${formatBytes(space.reserve)} of them in reserve`;
  return [...first, heading, table(rows), ...out, `  ${fleecingText(fleecing)}`, room].join('\n');
}

/** `with fleecing: a speed limit is set` */
export function fleecingText({ fleece, why }: BackupResult['fleecing']): string {
  return `${fleece ? 'with' : 'without'} fleecing: ${why}`;
}

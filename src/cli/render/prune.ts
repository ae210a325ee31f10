import { displayName } from '../../core/identity.js';
import type { PrunedHistory, PrunedPoint, PruneResult } from '../../operations/prune/request.js';
import { table } from './table.js';
import { formatBytes, formatTime } from './units.js';

/** Every point with why it stays, or that it goes, oldest first. */
export function renderPrune({ histories, dryRun }: PruneResult, verbose: boolean): string {
  return histories.map((history) => renderHistory(history, dryRun, verbose)).join('\n\n');
}

function renderHistory(history: PrunedHistory, dryRun: boolean, verbose: boolean): string {
  const { vm, targets, points, removed, freed, missing, failed } = history;
  const where = targets.length === 1 ? targets[0] : `${targets[0]} to ${targets.at(-1)}`;
  const heading = `${where}  VM ${displayName(vm) ?? 'without name'}`;
  if (failed) return `${heading}: not pruned, ${failed.message}`;
  const dropped = points.filter(({ reasons }) => reasons.length === 0).length;
  const rows = points.map((point) => row(point, targets.length > 1));
  const header = [...(targets.length > 1 ? ['TARGET'] : []), 'POINT', 'TAKEN', 'SIZE', '', 'WHY'];
  const goes = dryRun ? 'would go' : 'gone';
  return [
    heading,
    table([header, ...rows]),
    `${points.length - dropped} kept, ${dropped} ${goes}, ${formatBytes(freed)} ${dryRun ? 'would be free' : 'freed'}`,
    ...(verbose ? removed.map((file) => `removed ${file}`) : []),
    ...(missing === null ? [] : [`${formatBytes(missing)} less is free than --keep-free asks for`]),
  ].join('\n');
}

function row({ target, point, reasons, mergedInto, bytes }: PrunedPoint, several: boolean): readonly string[] {
  return [
    ...(several ? [target.slice(target.lastIndexOf('/') + 1)] : []),
    point.chain === null ? point.id : `${point.chain}:${point.number}`,
    formatTime(point.createdAt),
    formatBytes(bytes),
    reasons.length === 0 ? 'drop' : 'keep',
    reasons.length === 0
      ? `no rule keeps it${mergedInto.length > 0 ? '; its data is merged into the next' : ''}`
      : reasons.map(({ text }) => text).join(', '),
  ];
}

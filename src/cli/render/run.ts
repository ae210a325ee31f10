import type { VmHistory } from '../../run/history.js';
import type { RunResult } from '../../run/run.js';
import { table } from './table.js';
import { formatDuration } from './units.js';

/** A row for each VM of a run, and how many went how. */
export function renderRun({ ended, notBegun }: RunResult): string {
  const rows = [...ended.map(rowOf), ...notBegun.map((vm) => [vm, 'not begun', '', ''])];
  const results = ['ok', 'warnings', 'skipped', 'failed'] as const;
  const counts = results.flatMap((result) => {
    const many = ended.filter(({ run }) => run.result === result).length;
    return many === 0 ? [] : [`${many} ${result}`];
  });
  const all = [...counts, ...(notBegun.length === 0 ? [] : [`${notBegun.length} not begun`])];
  return [
    table([['VM', 'RESULT', 'TOOK', 'WHAT'], ...rows]),
    `${rows.length === 1 ? '1 VM' : `${rows.length} VMs`}: ${all.join(', ')}`,
  ].join('\n');
}

function rowOf({ vm, run }: VmHistory): readonly string[] {
  const took = run.steps.reduce((sum, { durationMs }) => sum + durationMs, 0);
  const told = run.steps.map(({ verb, result, summary, why }) => {
    const words = [summary, why].filter((each) => each !== null).join('; ');
    return `${verb}${result === 'failed' ? ' failed' : ''}: ${words || 'done'}`;
  });
  return [vm, run.result, formatDuration(took), told.join('. ')];
}

import { spanText } from '../../core/status.js';
import { lastBoot, type Status, type VmStatus } from '../../report/status.js';
import { table } from './table.js';
import { formatBytes, formatTime } from './units.js';

/** A row for each VM, and below it what is wrong. */
export function renderStatus({ level, vms }: Status): string {
  const heading = ['VM', 'STATE', 'NEWEST GOOD POINT', 'AGE', 'POINTS', 'CHAIN', 'SPACE', 'VERIFIED', 'BOOTED'];
  const rows = vms.map(rowOf);
  const reasons = vms.flatMap(({ vm, reasons }) => reasons.map((each) => `${each.level}: ${vm}: ${each.text}`));
  const counted = vms.length === 1 ? '1 VM' : `${vms.length} VMs`;
  return [table([heading, ...rows]), ...reasons, `${counted}: ${level}`].join('\n');
}

function rowOf(status: VmStatus): readonly string[] {
  const { vm, level, lastGood, ageMs, facts, chainPoints, history } = status;
  const boot = lastBoot(facts?.points ?? []);
  const verified = history?.checks.verify;
  return [
    vm,
    level,
    lastGood ? formatTime(lastGood.point.createdAt) : '-',
    ageMs === null ? '-' : spanText(ageMs),
    facts ? String(facts.points.length) : '-',
    facts ? String(chainPoints) : '-',
    facts ? formatBytes(facts.allocated) : '-',
    verified ? formatTime(verified) : '-',
    boot ? `${formatTime(boot.at)}${boot.why === null ? '' : ', failed'}` : '-',
  ];
}

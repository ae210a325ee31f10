import { printable } from '../core/printable.js';
import type { StatusLevel } from '../core/status.js';
import type { Status, VmStatus } from './status.js';

/** Exit codes as monitoring plugins have them: of `status` alone (docs/decisions/0036-status.md). */
export const STATUS_EXIT: Readonly<Record<StatusLevel | 'unknown', number>> = {
  ok: 0,
  warning: 1,
  critical: 2,
  unknown: 3,
};

/** The one line of a monitoring plugin, with its figures: `QMPBACKUP OK - 3 VMs | …`. `unknown`: why not all is known. */
export function pluginLine({ level, vms }: Status, unknown: readonly string[] = []): string {
  const bad = vms.filter((each) => each.level !== 'ok');
  const told = bad.map(({ vm, reasons }) => `${vm}: ${reasons.map(({ text }) => text).join(', ')}`);
  const words = bad.length === 0 ? countOf(vms.length) : `${bad.length} of ${countOf(vms.length)}: ${told.join('; ')}`;
  const all = [words, ...unknown].join('; ');
  const figures = [
    `vms=${vms.length}`,
    ...LEVELS.map((each) => `${each}=${vms.filter((vm) => vm.level === each).length}`),
  ];
  return `${lineOf(level, all)} | ${[...figures, ...vms.flatMap(ageOf)].join(' ')}`;
}

const LEVELS: readonly StatusLevel[] = ['ok', 'warning', 'critical'];

/** A line of a plugin that could not find out. */
export function unknownLine(why: string): string {
  return lineOf('unknown', why);
}

function lineOf(level: StatusLevel | 'unknown', words: string): string {
  // What follows `|` are figures, and the second line is for people who ask for more.
  return `QMPBACKUP ${level.toUpperCase()} - ${printable(words.replace(/\s+/g, ' ')).replaceAll('|', '/')}`;
}

function countOf(count: number): string {
  return count === 1 ? '1 VM' : `${count} VMs`;
}

/** `'web1'=3600s;93600`: seconds, and from which on it is a warning. */
function ageOf({ vm, ageMs, maxAgeMs }: VmStatus): readonly string[] {
  if (ageMs === null) return [];
  const label = `'age ${vm.replace(/['=|\s]/g, '_')}'`;
  const limit = maxAgeMs === null ? '' : `;${Math.round(maxAgeMs / 1000)}`;
  return [`${label}=${Math.max(0, Math.round(ageMs / 1000))}s${limit}`];
}

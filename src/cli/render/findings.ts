import { counted } from '../../core/counted.js';
import type { Finding } from '../../core/finding.js';
import { printable } from '../../core/printable.js';

/** A line per finding with what to do about it, the worst first, and a count. */
export function renderFindings(findings: readonly Finding[]): string {
  return [...findingLines(findings), summary(findings)].join('\n');
}

export function findingLines(findings: readonly Finding[]): readonly string[] {
  return findings.map(({ level, subject, what, todo }) =>
    printable(`${level.padEnd(7)}  ${subject}: ${what}${todo === null ? '' : ` -> ${todo}`}`),
  );
}

function summary(findings: readonly Finding[]): string {
  const [errors, warnings] = [countOf(findings, 'error'), countOf(findings, 'warning')];
  return errors + warnings === 0
    ? 'nothing stands in the way of a backup'
    : `${counted(errors, 'error')}, ${counted(warnings, 'warning')}`;
}

export function countOf(findings: readonly Finding[], level: Finding['level']): number {
  return findings.filter((each) => each.level === level).length;
}

import type { Finding } from '../../core/finding.js';

/** A line per finding with what to do about it, the worst first, and a count. */
export function renderFindings(findings: readonly Finding[]): string {
  return [...findingLines(findings), summary(findings)].join('\n');
}

export function findingLines(findings: readonly Finding[]): readonly string[] {
  return findings.map(
    ({ level, subject, what, todo }) => `${level.padEnd(7)}  ${subject}: ${what}${todo === null ? '' : ` -> ${todo}`}`,
  );
}

function summary(findings: readonly Finding[]): string {
  const count = (level: Finding['level'], word: string): string => {
    const number = findings.filter((each) => each.level === level).length;
    return `${number} ${word}${number === 1 ? '' : 's'}`;
  };
  const [errors, warnings] = [count('error', 'error'), count('warning', 'warning')];
  return errors === '0 errors' && warnings === '0 warnings'
    ? 'nothing stands in the way of a backup'
    : `${errors}, ${warnings}`;
}

import type { VerifiedTarget, VerifyResult } from '../../operations/verify/request.js';
import { counted } from '../../core/counted.js';
import { countOf, findingLines } from './findings.js';
import { formatBytes, formatDuration } from './units.js';

/** A line for each finding, and one for each target with what was looked at. */
export function renderVerify({ targets }: VerifyResult): string {
  return targets
    .flatMap((each) => [...each.repaired, ...findingLines(each.findings), ...bootLines(each), summary(each)])
    .join('\n');
}

const ANSWERS = { agent: 'its agent answered', serial: 'its serial port said it', running: 'it ran' } as const;

function bootLines({ booted }: VerifiedTarget): readonly string[] {
  if (!booted) return [];
  const { name, proof, evidence } = booted;
  const told =
    proof.afterMs === null ? [] : [`${name} boots: ${ANSWERS[proof.by]} after ${formatDuration(proof.afterMs)}`];
  return [...told, ...evidence.files, ...evidence.missing];
}

function summary({ target, findings, points, lost, files, read }: VerifiedTarget): string {
  const looked = `${counted(points, 'point')}, ${counted(files, 'file')} looked at`;
  const bytes = read.files === 0 ? '' : `, ${read.files} of them read whole (${formatBytes(read.bytes)})`;
  const found = (['error', 'warning'] as const).flatMap((level) => {
    const number = countOf(findings, level);
    return number === 0 ? [] : [counted(number, level)];
  });
  const cost = lost.length === 0 ? '' : `; not restorable as a whole: ${lost.join(', ')}`;
  return `${target}: ${looked}${bytes}: ${found.length === 0 ? 'nothing wrong' : found.join(', ')}${cost}`;
}

import { counted } from '../core/counted.js';
import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { formatBytes } from '../core/bytes.js';
import { countsWhereStrict } from '../core/warning.js';
import { type ErrorCode, messageOf } from '../errors.js';
import type { PointMade, RunVerb, StepEnd } from '../run/step.js';
import type { BackupDocument } from './documents/schemas/backup.js';
import type { ErrorDocument } from './documents/schemas/error.js';
import type { LineDocument } from './documents/schemas/line.js';
import type { PruneDocument } from './documents/schemas/prune.js';
import type { ReportDocument } from './documents/schemas/report.js';
import type { VerifyDocument } from './documents/schemas/verify.js';
import { formatDuration } from './render/units.js';
import { STEP_ENV } from './step-process.js';

/**
 * Runs a verb for `run` in a process of its own: one that hangs, crashes or takes much memory is none of the others'. What it
 * says is read from its `--json=lines`.
 */
export function createRunVerb(): RunVerb {
  return async (args, { signal, progress }) => {
    const heard: Heard = { warnings: [], answer: null, error: null };
    const child = spawn(
      process.execPath,
      [...process.execArgv, ...process.argv.slice(1, 2), '--json=lines', '--quiet', ...args],
      {
        stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
        env: { ...process.env, ...STEP_ENV },
      },
      // Of pipes beside a channel Node's types know nothing.
    ) as ChildProcessByStdio<null, Readable, Readable>;
    const end = (): void => void child.kill('SIGTERM');
    signal.addEventListener('abort', end, { once: true });
    if (signal.aborted) end();
    let stderr = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr = (stderr + text).slice(-MOST_WORDS);
    });
    const lines = createInterface({ input: child.stdout });
    lines.on('line', (text) => {
      const line = lineIn(text);
      if (line) hear(heard, line, progress);
      else stderr = `${stderr}${text}\n`;
    });
    try {
      const [code, by] = await new Promise<readonly [number | null, NodeJS.Signals | null]>((resolve, reject) => {
        child.once('error', reject);
        child.once('close', (...ended) => resolve(ended));
      });
      const exitCode = code ?? (by === 'SIGINT' ? 130 : 143);
      // It may not have come to the point from which it tells that itself.
      if (signal.aborted) return endOf(heard, exitCode, messageOf(signal.reason));
      const words = stderr.trim() || 'it said nothing';
      return endOf(heard, exitCode, `the program ended with ${by ?? code} and no answer: ${words}`);
    } catch (error) {
      return endOf(heard, 1, `the program could not be started: ${messageOf(error)}`);
    } finally {
      signal.removeEventListener('abort', end);
    }
  };
}

/** Of what a process says that ends without an answer. Characters. */
const MOST_WORDS = 2_000;

interface Heard {
  readonly warnings: string[];
  answer: Answer | null;
  error: ErrorDocument['error'] | null;
}

type Answer = BackupDocument | PruneDocument | ReportDocument | VerifyDocument;

/** Our own program's lines are as their schema says; a process that crashes may say anything. */
function lineIn(text: string): LineDocument | undefined {
  try {
    return JSON.parse(text) as LineDocument;
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

function hear(heard: Heard, line: LineDocument, progress: (percent: number) => void): void {
  switch (line.type) {
    case 'log': {
      const { code, text } = line;
      // What an earlier run has warned of is told again, and still so; what the disks are like is no fault of a run.
      if (code !== null ? countsWhereStrict({ code, text }) : line.level === 'warning') heard.warnings.push(text);
      return;
    }
    case 'progress': {
      const total = line.parts.reduce((sum, part) => sum + part.total, 0);
      const done = line.parts.reduce((sum, part) => sum + part.done, 0);
      progress(total === 0 ? 100 : Math.floor((done / total) * 100));
      return;
    }
    case 'answer':
      heard.answer = line.answer as unknown as Answer;
      return;
    case 'error':
      heard.error = line.error;
      return;
  }
}

const NO_ANSWER: ErrorCode = 'failed';

/** `silent`: why it has said nothing, where that is so. */
function endOf({ warnings, answer, error }: Heard, exitCode: number, silent: string): StepEnd {
  const none = { exitCode, warnings, findings: [], summary: null, point: null };
  if (error) return { ...none, error };
  if (answer) return { ...none, ...toldBy(answer), error: null };
  return { ...none, error: { code: NO_ANSWER, message: silent, hint: null } };
}

function toldBy(answer: Answer): Pick<StepEnd, 'findings' | 'summary' | 'point'> {
  switch (answer.command) {
    case 'backup':
      return { ...ofBackup(answer), point: pointOf(answer) };
    case 'prune':
      return { ...ofPrune(answer), point: null };
    case 'report':
      return { findings: [], summary: answer.pages[0] ?? null, point: null };
    case 'verify':
      return { ...ofVerify(answer), point: null };
  }
}

type Told = Pick<StepEnd, 'findings' | 'summary'>;

function ofBackup({ point, target, plan }: BackupDocument): Told {
  if (!point) {
    const disks = plan.disks.map(({ disk, level, reason }) => `${disk} ${level.toUpperCase()}, ${reason}`);
    return { findings: [], summary: `would take point ${plan.number} in ${target}: ${disks.join('; ')}` };
  }
  const bytes = copiedBytes(point);
  const failed = (point.lacks ?? []).filter(({ kind }) => kind === 'failed');
  return {
    findings: failed.map(({ disk, reason }) => `${disk} is not in the point: ${reason}`),
    summary: `${nameOf(point)} in ${target}, ${point.level.toUpperCase()}, ${point.consistency}, ${formatBytes(bytes)} copied`,
  };
}

function pointOf({ point, target, freeze, pausedMs }: BackupDocument): PointMade | null {
  if (!point) return null;
  const { level } = point;
  return {
    target,
    name: nameOf(point),
    level,
    bytes: copiedBytes(point),
    frozenMs: freeze?.frozenMs ?? null,
    pausedMs,
  };
}

function nameOf({ chain, number, id }: NonNullable<BackupDocument['point']>): string {
  return chain === null ? id : `${chain}:${number}`;
}

function copiedBytes({ disks }: NonNullable<BackupDocument['point']>): number {
  return disks.reduce((sum, { changed }) => sum + changed, 0);
}

function ofPrune({ histories, dryRun }: PruneDocument): Told {
  const points = histories.flatMap((each) => each.points);
  const gone = points.filter(({ kept }) => !kept).length;
  const stay = points.length - gone;
  const freed = histories.reduce((sum, each) => sum + each.freed, 0);
  return {
    findings: histories.flatMap(({ missing, failed }) => [
      ...(failed ? [failed.why] : []),
      ...(missing === null ? [] : [`${formatBytes(missing)} less is free than keep.free asks for`]),
    ]),
    summary: dryRun
      ? `would keep ${counted(stay, 'point')} and drop ${gone}, ${formatBytes(freed)} would be free`
      : `${counted(stay, 'point')} kept, ${gone} gone, ${formatBytes(freed)} freed`,
  };
}

function ofVerify({ targets }: VerifyDocument): Told {
  const errors = targets.flatMap(({ findings }) => findings.filter(({ level }) => level === 'error'));
  const bytes = targets.reduce((sum, { read }) => sum + read.bytes, 0);
  const booted = targets.flatMap((each) => (each.booted && each.booted.why === null ? [each.booted] : []));
  const points = targets.reduce((sum, each) => sum + each.points, 0);
  return {
    findings: errors.map(({ what }) => what),
    summary: [
      `${counted(points, 'point')} looked at`,
      ...(bytes > 0 ? [`${formatBytes(bytes)} read`] : []),
      ...booted.map(
        ({ point, afterMs }) => `${point} has booted${afterMs === null ? '' : ` in ${formatDuration(afterMs)}`}`,
      ),
    ].join(', '),
  };
}

import type { Warning } from '../../core/warning.js';
import type { Notification } from '../../notify/notify.js';
import type { StepRecord, VmHistory } from '../../run/history.js';
import type { RunResult } from '../../run/run.js';
import { envelope } from './envelope.js';
import { warningPart } from './parts.js';
import type { RunDocument } from './schemas/run.js';

type VmPart = RunDocument['vms'][number];

export function runDocument(
  { ended, notBegun }: RunResult,
  {
    config,
    dryRun,
    notifications,
  }: { readonly config: string; readonly dryRun: boolean; readonly notifications: readonly Notification[] },
  warnings: readonly Warning[],
): RunDocument {
  return {
    ...{ ...envelope('run'), config, dryRun, vms: ended.map(vmPart), notBegun },
    notifications: notifications.map(notificationPart),
    warnings: warnings.map(warningPart),
  };
}

export function notificationPart({ notifier, kind, what, failed }: Notification): RunDocument['notifications'][number] {
  return { notifier, kind, what, failed };
}

function vmPart({ vm, target, run, backup, failingSince }: VmHistory): VmPart {
  return { vm, target, run: vmRunPart(run), backup: pointMadePart(backup), failingSince };
}

export function vmRunPart({ at, endedAt, result, steps }: VmHistory['run']): VmPart['run'] {
  return { at, endedAt, result, steps: steps.map(stepPart) };
}

export function pointMadePart(backup: VmHistory['backup']): VmPart['backup'] {
  if (!backup) return null;
  const { at, name, level, bytes, durationMs, frozenMs, pausedMs } = backup;
  return { at, name, level, bytes, durationMs, frozenMs, pausedMs };
}

function stepPart({
  verb,
  at,
  durationMs,
  exitCode,
  result,
  why,
  hint,
  warnings,
  summary,
}: StepRecord): VmPart['run']['steps'][number] {
  return { verb, at, durationMs, exitCode, result, why, hint, warnings, summary };
}

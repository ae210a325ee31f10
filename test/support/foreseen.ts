import { expect } from 'vitest';
import { type CliResult, qmpbackup } from './cli.js';
import type { FaultBefore, Situation } from './faults-before.js';

interface DoctorAnswer {
  readonly error?: { readonly message: string };
  readonly findings?: readonly {
    readonly level: 'error' | 'warning' | 'info';
    readonly subject: string;
    readonly what: string;
  }[];
}

/** What `doctor` says is bad. Of an agent that is missing nobody here has asked: these backups are without --quiesce. */
export interface Diagnosis {
  readonly exitCode: number;
  readonly bad: readonly string[];
}

export async function diagnose(situation: Situation): Promise<Diagnosis> {
  const { exitCode, ...said } = await ask(situation, 'doctor');
  const { findings, error } = said.json<DoctorAnswer>();
  const bad = findings?.filter(
    ({ level, subject }) => level === 'error' || (level === 'warning' && subject !== 'agent'),
  );
  return { exitCode, bad: bad?.map(({ what }) => what) ?? [error?.message ?? ''] };
}

export function backUp(situation: Situation): Promise<CliResult> {
  return ask(situation, 'backup', '--level', 'auto', ...(situation.backupOptions ?? []));
}

/** Arranges the fault, and fails unless the backup fails by it and `doctor` had said an error or a warning. */
export async function expectForeseen({ ends, arrange }: FaultBefore): Promise<void> {
  const situation = await arrange();
  const { exitCode, bad } = await diagnose(situation);
  const backup = await backUp(situation);
  expect(`${backup.exitCode}: ${backup.stderr}`).toMatch(new RegExp(`^${ends}: `));
  expect(bad, `doctor ended with ${exitCode}; the backup: ${backup.stderr}`).not.toEqual([]);
}

function ask(
  { vm, target, monthly, env }: Situation,
  command: 'doctor' | 'backup',
  ...more: string[]
): Promise<CliResult> {
  const args = [...vm, '--json', command, '--target', target, ...(monthly ? ['--monthly'] : []), ...more];
  return qmpbackup(args, { env: { NO_COLOR: '1', ...env } });
}

import { join } from 'node:path';
import { execa, type Options } from 'execa';
import { checkedAnswer, checkedLines } from './json-answer.js';
import { projectRoot } from './lab/programs.js';
import { patient } from './patience.js';

/** Runs the built program as a person would: arguments in, screen, exit code and disk out. */
export const PROGRAM = join(projectRoot(), 'bin', 'qmpbackup.js');

export interface CliResult {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
  /** The JSON document on stdout. */
  json<T = Record<string, unknown>>(): T;
}

export async function qmpbackup(args: readonly string[], options: Options = {}): Promise<CliResult> {
  const result = await execa(process.execPath, [PROGRAM, ...args], {
    reject: false,
    timeout: patient(120_000),
    env: { NO_COLOR: '1' },
    ...options,
  });
  const stdout = String(result.stdout ?? '');
  checkOutput(args, stdout);
  return {
    // A program that a signal ended has no exit code of its own.
    exitCode: result.exitCode ?? -1,
    stdout,
    stderr: String(result.stderr ?? ''),
    json: <T>() => checkedAnswer(stdout) as T,
  };
}

/** Also where a test does not look at it. A run that was killed may have said nothing. */
function checkOutput(args: readonly string[], stdout: string): void {
  if (stdout === '' || isHelp(args)) return;
  if (args.includes('--json')) checkedAnswer(stdout);
  if (args.includes('--json=lines')) checkedLines(stdout);
}

function isHelp(args: readonly string[]): boolean {
  return args.includes('--help') || args.includes('--version');
}

/** Runs it and throws, with all it said, unless it ends with `exitCode`. */
export async function expectCli(exitCode: number, args: readonly string[], options: Options = {}): Promise<CliResult> {
  const result = await qmpbackup(args, options);
  if (result.exitCode !== exitCode) {
    throw new Error(
      `qmpbackup ${args.join(' ')} ended with ${result.exitCode}, not ${exitCode}:\n${result.stdout}\n${result.stderr}`,
    );
  }
  return result;
}

/** A run that goes on in the background, for killing it in the middle. */
export function startCli(
  args: readonly string[],
  { detached = false, env = {} }: { readonly detached?: boolean; readonly env?: NodeJS.ProcessEnv } = {},
) {
  const options = { reject: false, timeout: patient(120_000), env: { NO_COLOR: '1', ...env }, detached } as const;
  const run = execa(process.execPath, [PROGRAM, ...args], options);
  // Where it is not as it should be, nobody catches it: the test file fails. One that was killed may not have ended its last line.
  void run.then(({ stdout, isTerminated }) => {
    if (!isTerminated) checkOutput(args, String(stdout));
  });
  return run;
}

export const repositoryRoot = projectRoot();

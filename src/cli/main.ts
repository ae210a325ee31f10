import { setMaxListeners } from 'node:events';
import { CommanderError } from 'commander';
import { printableJson, printableLines } from '../core/printable.js';
import { messageOf, QmpBackupError } from '../errors.js';
import { codeOf, fileError } from '../host/file-errors.js';
import { endWithStarter, hearNoStarter, isInBackground } from './background.js';
import { endWithParent, isChildRun, tellEnding } from './child-run.js';
import { errorDocument } from './documents/error.js';
import type { ErrorDocument } from './documents/schemas/error.js';
import { exitCodeFor, exitCodeOf, FailedWith } from './exit-codes.js';
import { jsonFormOf, withJsonForm } from './json-form.js';
import { createJsonLines } from './json-lines.js';
import { isReaderStuck, lostAnswer, put, putAnswer } from './output.js';
import { buildProgram } from './program.js';
import { sourceStack } from './source-stack.js';
import { endWithRun, leaveRun, takeStepMark } from './step-process.js';
import type { CommandContext } from './wiring.js';

/** Runs the program: the only file that decides how the process ends. */

// One signal ends a run, and as many listen to it as there are disks and files: no number of them is a leak to be warned of.
setMaxListeners(0);

const interrupt = new AbortController();
let caught: NodeJS.Signals | undefined;
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    caught ??= signal;
    interrupt.abort(new QmpBackupError('interrupted', `interrupted by ${caught}`));
  });
}

// Whoever read what is said may be gone (`| head`, a terminal): a backup, or its undo, goes on all the same. What is written
// to a file goes by `put`, and by no event.
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => undefined);

if (isChildRun()) endWithParent();
if (isInBackground()) endWithStarter();
const isStep = takeStepMark();
if (isStep) endWithRun();

const opened: CommandContext[] = [];
void main();

async function main(): Promise<void> {
  try {
    const program = await buildProgram(process.argv, interrupt.signal, (context) => opened.push(context));
    await program.parseAsync(withJsonForm(process.argv));
    const ending = opened[0]?.ending();
    if (ending !== undefined) process.exitCode = exitCodeFor(ending);
    process.exitCode = opened[0]?.exitCode() ?? process.exitCode;
    if (lostAnswer()) process.exitCode = exitCodeFor('failed');
  } catch (error) {
    process.exitCode = error instanceof CommanderError ? reportUsage(error) : report(error);
  } finally {
    await opened[0]?.log.close();
    if (isInBackground()) hearNoStarter();
    if (isStep) leaveRun();
    if (isChildRun()) await tellEnding(Number(process.exitCode ?? 0));
    // All else has ended, and nobody wants the rest of what waits.
    // eslint-disable-next-line no-restricted-syntax -- this is the one file that may
    if (isReaderStuck()) process.exit();
  }
}

/** commander has printed its own message, to the right stream. */
function reportUsage({ exitCode, message }: CommanderError): number {
  if (exitCode === 0) return lostAnswer() ? exitCodeFor('failed') : 0;
  const hint = 'Run it with --help for all options.';
  // commander's own is 1; a command that has codes of its own says its own.
  const told = exitCode === 1 ? exitCodeFor('usage') : exitCode;
  printError({ code: 'usage', exitCode: told, message: message.replace(/^error: /, ''), hint });
  return told;
}

/** Says what failed and what to do next; returns the exit code. */
function report(thrown: unknown): number {
  const isOwn = thrown instanceof FailedWith;
  const error = reasonOf(isOwn ? thrown.cause : thrown);
  const exitCode = isOwn ? thrown.exitCode : exitCodeOf(error, interrupt.signal.aborted ? caught : undefined);
  const told = ofFileSystem(error);
  const known = told instanceof QmpBackupError;
  const lines = [
    messageOf(told),
    ...(known && told.hint !== undefined ? [`hint: ${told.hint}`] : []),
    ...(!known && told instanceof Error && told.stack ? [sourceStack(told.stack)] : []),
  ];
  const log = opened[0]?.log;
  if (log) log.write('error', lines.join('\n'));
  else put(process.stderr, `error: ${printableLines(lines.join('\n'))}\n`);
  const hint = (known ? told.hint : null) ?? null;
  printError({
    code: error instanceof QmpBackupError ? error.code : 'failed',
    exitCode,
    message: messageOf(told),
    hint,
  });
  return exitCode;
}

/** Where a signal has ended what Node itself waited for, the signal is the reason. */
function reasonOf(error: unknown): unknown {
  return interrupt.signal.aborted && codeOf(error) === 'ABORT_ERR' ? interrupt.signal.reason : error;
}

/** What nobody expected of a file, in words; anything else as it is. */
function ofFileSystem(error: unknown): unknown {
  if (error instanceof QmpBackupError || codeOf(error) === undefined) return error;
  const { path } = error as NodeJS.ErrnoException;
  return path === undefined ? error : fileError('use', path, error);
}

/** The answer of a run that failed, where JSON is wanted on stdout; options may not have been parsed by then. */
function printError(error: ErrorDocument['error']): void {
  if (opened[0]?.answered()) return;
  const form = jsonFormOf(process.argv);
  if (form === 'lines') createJsonLines(() => new Date()).error(error);
  if (form === 'document') putAnswer(`${printableJson(errorDocument(error), 2)}\n`);
}

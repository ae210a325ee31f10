import { CommanderError } from 'commander';
import { messageOf, QmpBackupError } from '../errors.js';
import { exitCodeOf } from './exit-codes.js';
import { buildProgram } from './program.js';
import { type CommandContext, JSON_SCHEMA } from './wiring.js';

/** Runs the program: the only file that decides how the process ends. */
const interrupt = new AbortController();
let caught: NodeJS.Signals | undefined;
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    caught ??= signal;
    interrupt.abort(new QmpBackupError('interrupted', `interrupted by ${caught}`));
  });
}

const opened: CommandContext[] = [];
const program = buildProgram(interrupt.signal, (context) => opened.push(context));
try {
  await program.parseAsync();
} catch (error) {
  // commander has printed its own message, to the right stream.
  process.exitCode = error instanceof CommanderError ? (error.exitCode === 0 ? 0 : 2) : report(error);
} finally {
  await opened[0]?.log.close();
}

/** Says what failed and what to do next; returns the exit code. */
function report(error: unknown): number {
  const exitCode = exitCodeOf(error, interrupt.signal.aborted ? caught : undefined);
  const known = error instanceof QmpBackupError;
  const lines = [
    messageOf(error),
    ...(known && error.hint !== undefined ? [`hint: ${error.hint}`] : []),
    ...(!known && error instanceof Error && error.stack ? [error.stack] : []),
  ];
  const log = opened[0]?.log;
  if (log) log.write('error', lines.join('\n'));
  else process.stderr.write(`error: ${lines.join('\n')}\n`);
  if (program.opts()['json'] === true) {
    const detail = { code: known ? error.code : 'failed', exitCode, message: messageOf(error) };
    const document = { schema: JSON_SCHEMA, error: { ...detail, hint: (known ? error.hint : null) ?? null } };
    process.stdout.write(`${JSON.stringify(document, null, 2)}\n`);
  }
  return exitCode;
}

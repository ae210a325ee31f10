import { Chalk } from 'chalk';
import type { Trace } from '../backends/verb-context.js';
import { printableJson, printableLines } from '../core/printable.js';
import { countsWhereStrict, type Warn, type Warning } from '../core/warning.js';
import { type ErrorCode, messageOf, QmpBackupError } from '../errors.js';
import type { AnswerDocument } from './documents/document.js';
import type { JsonForm } from './json-form.js';
import { createJsonLines } from './json-lines.js';
import { createLog, type Log } from './log.js';
import { answerOnStderr, putAnswer } from './output.js';
import type { LogLevel } from './record.js';

/** The only composition root: global options, clock, signals and printers become what a command needs. */
export interface GlobalOptions {
  readonly socket?: string;
  readonly agentSocket?: string;
  readonly domain?: string;
  readonly connect?: string;
  readonly json?: JsonForm;
  readonly quiet?: boolean;
  readonly verbose?: boolean;
  readonly debug?: boolean;
  readonly logfile?: string;
  readonly syslog?: boolean;
  readonly strict?: boolean;
  readonly color?: 'auto' | 'always' | 'never';
}

type MakesDocument = (warnings: readonly Warning[]) => AnswerDocument;

export interface CommandContext {
  readonly globals: GlobalOptions;
  readonly log: Log;
  readonly signal: AbortSignal;
  readonly now: () => Date;
  readonly warn: Warn;
  /** What an earlier run has warned of. */
  readonly remind: Warn;
  /** Prints what was asked for: the document as JSON with `--json`, else `text`. */
  readonly answer: (document: MakesDocument, text: () => string) => boolean;
  /** The same for what was done, which is for the record, too. `outcome`: what stands although nobody can be told, "the point is sealed". */
  readonly done: (document: MakesDocument, text: () => string, outcome: string) => void;
  /**
   * stdout is for the data that `flag` asks for: the answer goes to stderr.
   *
   * @throws QmpBackupError `usage` for a terminal, which takes no data, and for `--json=lines`, which wants stdout itself
   */
  readonly stdoutIsData: (flag: string) => void;
  /** The exit code of a run that answered and yet is not simply done. */
  readonly endWith: (code: ErrorCode) => void;
  /** An exit code that is none of the others', of a command that has answered; one that fails throws `FailedWith`. */
  readonly exitWith: (exitCode: number) => void;
  /** What `exitWith` was told. */
  readonly exitCode: () => number | undefined;
  /** What `endWith` was told, or what warnings make of it with `--strict`. */
  readonly ending: () => ErrorCode | undefined;
  /** Whether an answer was printed: a run that goes on after it tells its end on stderr and by its exit code alone. */
  readonly answered: () => boolean;
  /** Records each QMP message with `--debug`. */
  readonly trace: Trace | undefined;
}

export function createContext(globals: GlobalOptions, signal: AbortSignal): CommandContext {
  const now = (): Date => new Date();
  const lines = globals.json === 'lines' ? createJsonLines(now) : null;
  const log = createLog({
    lines,
    quiet: globals.quiet ?? false,
    verbose: globals.verbose ?? false,
    debug: globals.debug ?? false,
    logfile: globals.logfile,
    syslog: globals.syslog ?? false,
    paint: painter(globals.color ?? 'auto'),
    now,
  });
  let ending: ErrorCode | undefined;
  let exitCode: number | undefined;
  const warnings: Warning[] = [];
  let strictly = false;
  let answered = false;
  const print = (document: MakesDocument, text: () => string, standing: () => string): boolean => {
    answered = true;
    const json = (): string => printableJson(document(warnings), 2);
    const error = lines
      ? lines.answer(document(warnings))
      : putAnswer(`${globals.json ? json() : printableLines(text())}\n`);
    if (error) log.write('error', `the answer could not be written to stdout: ${messageOf(error)}; ${standing()}`);
    return error === null;
  };
  return {
    globals,
    log,
    signal,
    now,
    warn: ({ code, text }) => {
      warnings.push({ code, text });
      strictly ||= countsWhereStrict({ code, text });
      log.write('warning', text, code);
    },
    remind: (said) => {
      strictly ||= countsWhereStrict(said);
      log.write('info', said.text, said.code);
    },
    answer: (document, text) => print(document, text, () => 'nothing was changed'),
    done: (document, text, outcome) => {
      const words = text();
      log.record(words);
      print(
        document,
        () => words,
        () => `${outcome}\n${words}`,
      );
    },
    stdoutIsData: (flag) => {
      const why = lines ? '--json=lines and it both want stdout' : process.stdout.isTTY ? 'stdout is a terminal' : null;
      if (why !== null) {
        throw new QmpBackupError('usage', `${flag} writes data to stdout, and ${why}`, {
          hint: lines ? 'Use --json: its answer goes to stderr then.' : 'Send it to a file or a program, such as ssh.',
        });
      }
      answerOnStderr();
    },
    endWith: (code) => {
      ending = code;
    },
    exitWith: (code) => {
      exitCode = code;
    },
    exitCode: () => exitCode,
    // Done in part says more than that there were warnings.
    ending: () => ending ?? (globals.strict && strictly ? 'warnings' : undefined),
    answered: () => answered,
    trace: globals.debug
      ? (direction, message) => log.write('debug', `${direction} ${JSON.stringify(message)}`)
      : undefined,
  };
}

/** Colours only on a terminal, and never against NO_COLOR. */
function painter(when: 'auto' | 'always' | 'never'): (level: LogLevel, text: string) => string {
  const noColor = (process.env['NO_COLOR'] ?? '') !== '';
  const wanted = when === 'always' || (when === 'auto' && process.stderr.isTTY && !noColor);
  if (!wanted) return (_, text) => text;
  const chalk = new Chalk({ level: 1 });
  return (level, text) => {
    switch (level) {
      case 'error':
        return chalk.red(text);
      case 'warning':
        return chalk.yellow(text);
      case 'debug':
        return chalk.dim(text);
      case 'info':
        return text;
    }
  };
}

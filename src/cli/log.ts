import { printable, printableLines } from '../core/printable.js';
import type { WarningCode } from '../core/warning.js';
import type { JsonLines } from './json-lines.js';
import { put } from './output.js';
import { type Keeper, type LogLevel, openLogfile, openSyslog } from './record.js';

export interface Log {
  /** `code`: of a warning. */
  readonly write: (level: LogLevel, text: string, code?: WarningCode) => void;
  /** For `--json=lines` alone: what a terminal is shown otherwise. */
  readonly progress: JsonLines['progress'];
  /** For the record alone: what stdout tells already. */
  readonly record: (text: string) => void;
  /** A line that the next one overwrites, on a terminal only; empty text takes it away. */
  readonly transient: (text: string) => void;
  readonly close: () => Promise<void>;
}

export interface LogOptions {
  readonly quiet: boolean;
  readonly verbose: boolean;
  readonly debug: boolean;
  readonly logfile: string | undefined;
  readonly syslog: boolean;
  readonly lines: JsonLines | null;
  readonly paint: (level: LogLevel, text: string) => string;
  readonly now: () => Date;
}

const PREFIX: Readonly<Record<LogLevel, string>> = {
  debug: 'debug: ',
  info: '',
  warning: 'warning: ',
  error: 'error: ',
};

/** @throws QmpBackupError `usage` for a log file that was not meant: its folder is not there, or nobody may write it */
export function createLog(options: LogOptions): Log {
  const { quiet, verbose, debug, logfile, now, paint, lines } = options;
  let transientShown = false;

  const clear = (): void => {
    if (transientShown) put(process.stderr, '\r\x1b[K');
    transientShown = false;
  };
  const show = (level: LogLevel, text: string): void => {
    clear();
    put(process.stderr, `${paint(level, `${PREFIX[level]}${printableLines(text)}`)}\n`);
  };
  const keepers: Keeper[] = [];
  const failing = (option: string): ((why: string) => void) => {
    let said = false;
    return (why) => {
      if (!said) show('warning', `${option}: ${why}; what is said is not, or not all, kept there`);
      said = true;
    };
  };
  if (logfile !== undefined) keepers.push(openLogfile(logfile, now, failing(`--logfile ${logfile}`)));
  if (options.syslog) keepers.push(openSyslog(failing('--syslog')));

  const onScreen = (level: LogLevel): boolean => {
    if (level === 'error') return true;
    if (level === 'warning') return true;
    return level === 'debug' ? debug : verbose || debug || !quiet;
  };
  const record = (level: LogLevel, text: string): void => {
    for (const keeper of keepers) keeper.keep(level, printableLines(text));
  };
  return {
    write: (level, text, code) => {
      if (onScreen(level)) show(level, text);
      if (level === 'debug' && !debug) return;
      record(level, text);
      // An error is the last line, with its code and its hint.
      if (level !== 'error') lines?.log(level, text, code ?? null);
    },
    progress: (unit, parts) => lines?.progress(unit, parts),
    record: (text) => record('info', text),
    transient: (text) => {
      if (quiet || !process.stderr.isTTY) return;
      clear();
      put(process.stderr, printable(text));
      transientShown = text !== '';
    },
    close: async () => {
      await Promise.all(keepers.map((each) => each.close()));
      clear();
    },
  };
}

import { appendFileSync } from 'node:fs';
import { spawn, type ChildProcess } from 'node:child_process';
import { messageOf, QmpBackupError } from '../errors.js';

/** The narration: stderr for people, `--logfile` and `--syslog` for the record. stdout is left to the answer. */
export type LogLevel = 'debug' | 'info' | 'warning' | 'error';

export interface Log {
  readonly write: (level: LogLevel, text: string) => void;
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
  readonly paint: (level: LogLevel, text: string) => string;
  readonly now: () => Date;
}

const PREFIX: Readonly<Record<LogLevel, string>> = {
  debug: 'debug: ',
  info: '',
  warning: 'warning: ',
  error: 'error: ',
};

const SYSLOG_PRIORITY: Readonly<Record<LogLevel, string>> = {
  debug: 'user.debug',
  info: 'user.info',
  warning: 'user.warning',
  error: 'user.err',
};

export function createLog(options: LogOptions): Log {
  const { quiet, verbose, debug, logfile, now, paint } = options;
  const loggers: ChildProcess[] = [];
  let transientShown = false;
  if (logfile !== undefined) openLogfile(logfile);

  const clear = (): void => {
    if (transientShown) process.stderr.write('\r\x1b[K');
    transientShown = false;
  };
  const onScreen = (level: LogLevel): boolean => {
    if (level === 'error') return true;
    if (level === 'warning') return true;
    return level === 'debug' ? debug : verbose || debug || !quiet;
  };
  const record = (level: LogLevel, text: string): void => {
    if (logfile !== undefined) appendFileSync(logfile, `${now().toISOString()} ${level} ${text}\n`);
    if (options.syslog) loggers.push(toSyslog(level, text));
  };
  return {
    write: (level, text) => {
      if (onScreen(level)) {
        clear();
        process.stderr.write(`${paint(level, `${PREFIX[level]}${text}`)}\n`);
      }
      if (level !== 'debug' || debug) record(level, text);
    },
    record: (text) => record('info', text),
    transient: (text) => {
      if (quiet || !process.stderr.isTTY) return;
      clear();
      process.stderr.write(text);
      transientShown = text !== '';
    },
    close: async () => {
      clear();
      await Promise.all(loggers.map(ended));
    },
  };
}

function openLogfile(path: string): void {
  try {
    appendFileSync(path, '', { mode: 0o600 });
  } catch (error) {
    throw new QmpBackupError('usage', `--logfile ${path} cannot be written: ${messageOf(error)}`, { cause: error });
  }
}

/** Node speaks no syslog; `logger` of bsdutils, which is essential on Debian, does. */
function toSyslog(level: LogLevel, text: string): ChildProcess {
  const child = spawn('logger', ['-t', 'qmpbackup', '-p', SYSLOG_PRIORITY[level], '--', text], { stdio: 'ignore' });
  child.on('error', (error) => process.stderr.write(`warning: --syslog: ${error.message}\n`));
  return child;
}

function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.pid === undefined) return Promise.resolve();
  return new Promise((resolve) => child.once('close', () => resolve()));
}

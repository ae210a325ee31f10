import { closeSync, constants, openSync } from 'node:fs';
import { messageOf, QmpBackupError } from '../errors.js';
import { codeOf } from '../host/file-errors.js';
import { isLocal } from '../host/mounts.js';
import { writeWhole } from './output.js';
import { toldByProcess } from './told-by-process.js';

/** Who keeps what is said: neither method throws or rejects, and `failed` is told why something was not kept. */
export interface Keeper {
  readonly keep: (level: LogLevel, text: string) => void;
  /** What can be kept is kept. */
  readonly close: () => Promise<void>;
}

type Failed = (why: string) => void;

/** The machine's trouble, not a mistake in the option: it may come at any time, so it does not keep a run from beginning either. */
const TROUBLE = ['ENOSPC', 'EDQUOT', 'EIO', 'EROFS', 'ESTALE', 'EMFILE', 'ENFILE', 'ETIMEDOUT', 'EHOSTDOWN'];

/** @throws QmpBackupError `usage` */
export function openLogfile(path: string, now: () => Date, failed: Failed): Keeper {
  const line = (level: LogLevel, text: string): string => `${now().toISOString()} ${level} ${text}\n`;
  // A call on a mount that hangs would keep the whole program.
  if (!isLocal(path) && !/^\/(dev|proc)\//.test(path)) {
    const told = toldByProcess<string>(
      (lines) => ({ command: 'sh', args: ['-c', APPEND, path], input: lines.splice(0).join('') }),
      failed,
    );
    return { keep: (level, text) => told.add(line(level, text)), close: () => told.close() };
  }
  try {
    append(path, '');
  } catch (error) {
    if (!TROUBLE.includes(codeOf(error) ?? '')) {
      throw new QmpBackupError('usage', `--logfile ${path} cannot be written: ${messageOf(error)}`, { cause: error });
    }
  }
  return {
    keep: (level, text) => {
      try {
        append(path, line(level, text));
      } catch (error) {
        failed(messageOf(error));
      }
    },
    close: () => Promise.resolve(),
  };
}

/** In `sh`, with the path as `$0`. */
const APPEND = 'umask 077; exec cat >>"$0"';

/** Opened anew for each line, since it may be rotated meanwhile; a pipe that nobody reads is an error and no wait. */
function append(path: string, text: string): void {
  const { O_WRONLY, O_APPEND, O_CREAT, O_NONBLOCK } = constants;
  const fd = openSync(path, O_WRONLY | O_APPEND | O_CREAT | O_NONBLOCK, 0o600);
  try {
    writeWhole(fd, text);
  } finally {
    closeSync(fd);
  }
}

const SYSLOG_PRIORITY: Readonly<Record<LogLevel, string>> = {
  debug: 'user.debug',
  info: 'user.info',
  warning: 'user.warning',
  error: 'user.err',
};

/** An argument of a program can have 128 KiB. Characters. */
const LONGEST_MESSAGE = 30_000;

/** Node speaks no syslog; `logger` of bsdutils, which is essential on Debian, does. */
export function openSyslog(failed: Failed): Keeper {
  const told = toldByProcess<{ level: LogLevel; text: string }>((waiting) => {
    const { level, text } = waiting[0];
    waiting.shift();
    // Without the first option it ends with 0 also where there is no syslog.
    const options = ['--socket-errors=on', '-t', 'qmpbackup', '-p', SYSLOG_PRIORITY[level]];
    return { command: 'logger', args: [...options, '--', text.slice(0, LONGEST_MESSAGE)], input: '' };
  }, failed);
  return { keep: (level, text) => told.add({ level, text }), close: () => told.close() };
}

/**
 * The narration: stderr for people, `--logfile` and `--syslog` for the record. stdout is left to the answer. Once it is open,
 * nothing here throws, and nothing waits for whoever keeps the record: a record that fails is said once, and the run goes on.
 */
export type LogLevel = 'debug' | 'info' | 'warning' | 'error';

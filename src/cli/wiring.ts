import { readFileSync } from 'node:fs';
import { Chalk } from 'chalk';
import type { AskedVm } from '../backends/address.js';
import { whereNamesAre } from '../core/virsh-hint.js';
import { type ErrorCode, messageOf, QmpBackupError } from '../errors.js';
import { type Endpoint, parseEndpoint } from '../qmp/endpoint.js';
import type { AnswerDocument } from './documents/document.js';
import { createLog, type Log } from './log.js';
import { putAnswer } from './output.js';
import type { LogLevel } from './record.js';

/** The only composition root: global options, clock, signals and printers become what a command needs. */
export interface GlobalOptions {
  readonly socket?: string;
  readonly agentSocket?: string;
  readonly domain?: string;
  readonly connect?: string;
  readonly json?: boolean;
  readonly quiet?: boolean;
  readonly verbose?: boolean;
  readonly debug?: boolean;
  readonly logfile?: string;
  readonly syslog?: boolean;
  readonly color?: 'auto' | 'always' | 'never';
}

export interface CommandContext {
  readonly globals: GlobalOptions;
  readonly log: Log;
  readonly signal: AbortSignal;
  readonly now: () => Date;
  /** Prints what was asked for: the document as JSON with `--json`, else `text`. */
  readonly answer: (document: () => AnswerDocument, text: () => string) => void;
  /** The same for what was done, which is for the record, too. `outcome`: what stands although nobody can be told, "the point is sealed". */
  readonly done: (document: () => AnswerDocument, text: () => string, outcome: string) => void;
  /** The exit code of a run that answered and yet is not simply done. */
  readonly endWith: (code: ErrorCode) => void;
  /** What `endWith` was told. */
  readonly ending: () => ErrorCode | undefined;
  /** Records each QMP message with `--debug`. */
  readonly trace: ((direction: '>' | '<', message: unknown) => void) | undefined;
}

export function createContext(globals: GlobalOptions, signal: AbortSignal): CommandContext {
  const now = (): Date => new Date();
  const log = createLog({
    quiet: globals.quiet ?? false,
    verbose: globals.verbose ?? false,
    debug: globals.debug ?? false,
    logfile: globals.logfile,
    syslog: globals.syslog ?? false,
    paint: painter(globals.color ?? 'auto'),
    now,
  });
  let ending: ErrorCode | undefined;
  const print = (document: () => AnswerDocument, text: () => string, standing: () => string): void => {
    const json = (): string => JSON.stringify(document(), null, 2);
    const error = putAnswer(`${globals.json ? json() : text()}\n`);
    if (error) log.write('error', `the answer could not be written to stdout: ${messageOf(error)}; ${standing()}`);
  };
  return {
    globals,
    log,
    signal,
    now,
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
    endWith: (code) => {
      ending = code;
    },
    ending: () => ending,
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

/** Global options that exclude each other, whatever the command makes of them. */
export function refuseContradiction({ socket, agentSocket, domain, connect }: GlobalOptions): void {
  if (domain === undefined) return;
  if (domain.trim() === '') {
    throw new QmpBackupError('usage', '--domain names no domain', { hint: `${whereNamesAre(connect ?? null)}.` });
  }
  if (socket !== undefined) {
    throw new QmpBackupError('usage', '--socket and --domain name a VM each', { hint: 'Give one of them.' });
  }
  if (agentSocket !== undefined) {
    throw new QmpBackupError('usage', '--agent-socket does not go with --domain', {
      hint: 'Leave it out: libvirt holds the agent of its domains, and is asked to freeze and to thaw.',
    });
  }
}

/** The VM that `--socket` or `--domain` names; null where neither was given. */
export function vmOf({ socket, domain, connect }: GlobalOptions): AskedVm | null {
  if (domain !== undefined) return { kind: 'domain', domain, connect: connect ?? null };
  if (connect !== undefined) {
    throw new QmpBackupError('usage', '--connect chooses the libvirt of a domain, and none was given', {
      hint: 'Name the domain with --domain NAME, or leave --connect out.',
    });
  }
  return socket === undefined ? null : { kind: 'monitor', monitor: parseEndpoint(socket) };
}

export function requireVm(globals: GlobalOptions): AskedVm {
  const vm = vmOf(globals);
  if (vm) return vm;
  throw new QmpBackupError('usage', 'no VM was given', {
    hint: 'Name its QMP monitor, --socket /run/vm.qmp or --socket tcp:HOST:PORT, or its libvirt domain, --domain NAME',
  });
}

export function agentOf({ agentSocket }: GlobalOptions): Endpoint | null {
  return agentSocket === undefined ? null : parseEndpoint(agentSocket);
}

/** Version of this package. */
export function packageVersion(): string {
  const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}

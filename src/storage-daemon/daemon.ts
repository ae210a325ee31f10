import { join } from 'node:path';
import { isSocketPath } from '../core/socket-path.js';
import { QmpBackupError } from '../errors.js';
import { type LockOwner, thisProcess } from '../host/lock-owner.js';
import { type Program, type ProgramEnd, startProgram } from '../host/program.js';
import { within } from '../host/within.js';
import { QmpClient } from '../qmp/client.js';
import { QmpUnreachable } from '../qmp/errors.js';
import { makePrivateFolder, removePrivateFolder } from './private-folder.js';

/**
 * One qemu-storage-daemon, which nobody else can reach. It ends when it is told to, or with this process, however that
 * died; its folder goes with it.
 */
export interface StorageDaemon {
  readonly qmp: QmpClient;
  /** Absolute; nobody else may enter it. */
  readonly folder: string;
  readonly pid: number;
  /** What it has complained of until now. */
  readonly words: () => string;
  /** Settles when it has ended, by itself or not, with what it has said. Never rejects. */
  readonly ended: Promise<QmpBackupError>;
  /** Ends it and removes its folder; harmless once it has ended. */
  readonly close: () => Promise<void>;
}

export interface DaemonOptions {
  /** What it is for, for whoever finds its folder. */
  readonly what: string;
  /** With whom it ends; without, with this process. */
  readonly owner?: DaemonOwner | undefined;
  readonly signal: AbortSignal;
}

const PROGRAM = 'qemu-storage-daemon';
const START_MS = 30_000;
const POLL_MS = 10;
/** It writes what overlays hold. */
const TERM_MS = 60_000;
const MAX_WORDS = 4000;
/** The longest name of a socket in the folder. */
export const SOCKET_NAME = 'monitor';

export type Launched = Pick<Program, 'pid' | 'stderr' | 'ended' | 'kill'>;

/** Somebody else whose children daemons are, so that they end with it. */
export interface DaemonOwner {
  /** `what`: for whoever finds what it has left. */
  readonly record: (what: string) => LockOwner;
  /** A daemon whose monitor is this chardev. */
  readonly launch: (chardev: string) => Launched;
}

/** @throws QmpBackupError `failed` in the daemon's words; the signal's reason */
export async function startStorageDaemon({ what, owner, signal }: DaemonOptions): Promise<StorageDaemon> {
  signal.throwIfAborted();
  const folder = await makePrivateFolder(owner?.record(what) ?? thisProcess(what));
  try {
    const path = join(folder, SOCKET_NAME);
    refuseLongPath(path);
    const program = owner ? owner.launch(chardevAt(path)) : await launch(path);
    try {
      const qmp = await connect(program, path, signal);
      return daemonOf(program, qmp, folder);
    } catch (error) {
      await program.kill();
      throw error;
    }
  } catch (error) {
    await removePrivateFolder(folder);
    throw error;
  }
}

function daemonOf(program: Launched, qmp: QmpClient, folder: string): StorageDaemon {
  return {
    ...{ qmp, folder, pid: program.pid, words: () => plainWords(program.stderr()) },
    ended: program.ended.then((end) => failed(wordsOf(end))),
    close: async () => {
      await qmp.close();
      await program.kill();
      await removePrivateFolder(folder);
    },
  };
}

/**
 * setpriv (util-linux) has the kernel end it with us. We may have died before that was asked for, so the shell looks once
 * more whose child it is before it becomes the daemon. In a session of its own: a Ctrl-C is for us, who end it in order.
 */
export const WITH_PARENT = '[ "$PPID" = "$0" ] && exec "$@"';

function chardevAt(monitor: string): string {
  return `socket,id=monitor,path=${monitor.replaceAll(',', ',,')},server=on,wait=off`;
}

function launch(monitor: string): Promise<Launched> {
  const daemon = [PROGRAM, '--chardev', chardevAt(monitor), '--monitor', 'chardev=monitor'];
  return startProgram('setpriv', ['--pdeathsig', 'TERM', 'sh', '-c', WITH_PARENT, `${process.pid}`, ...daemon], {
    ...{ ownSession: true, termMs: TERM_MS },
    onStdout: () => undefined,
  });
}

async function connect(program: Launched, path: string, signal: AbortSignal): Promise<QmpClient> {
  const until = performance.now() + START_MS;
  for (;;) {
    try {
      return await QmpClient.connect({ kind: 'unix', path }, { signal });
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof QmpUnreachable)) throw error;
      const end = await within(POLL_MS, program.ended);
      if (end) throw failed(wordsOf(end), error);
      if (performance.now() > until) throw failed(`it did not begin to answer within ${START_MS / 1000} s`, error);
    }
  }
}

function refuseLongPath(path: string): void {
  if (isSocketPath(path)) return;
  throw new QmpBackupError('unsafe', `the path of a socket would be too long: ${path}`, {
    hint: 'Set TMPDIR to a folder with a shorter path.',
  });
}

function wordsOf({ exitCode, signal, stderr, failure }: ProgramEnd): string {
  if (failure !== null) return failure.message;
  return plainWords(stderr) || `it ended with ${signal ?? `exit code ${exitCode}`}`;
}

function plainWords(stderr: string): string {
  const words = stderr.slice(-MAX_WORDS).trim();
  return words.replace(/^(qemu-storage-daemon|setpriv): /gm, '').replace(/\n+/g, '; ');
}

function failed(words: string, cause?: unknown): QmpBackupError {
  const missing = /ENOENT|not found|failed to execute/.test(words);
  return new QmpBackupError('failed', `${PROGRAM} failed: ${words}`, {
    ...(cause === undefined ? {} : { cause }),
    ...(missing ? { hint: `Install ${PROGRAM} and setpriv: apt install qemu-system-common util-linux` } : {}),
  });
}

import { once } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { isSocketPath } from '../core/socket-path.js';
import { QmpBackupError } from '../errors.js';
import { listenAt } from '../host/listen-at.js';
import { type LockOwner, thisProcess } from '../host/lock-owner.js';
import { type Program, type ProgramEnd, startProgram } from '../host/program.js';
import { QmpClient } from '../qmp/client.js';
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
/** It writes what overlays hold. */
const TERM_MS = 60_000;
const MAX_WORDS = 4000;
/** Where it listens for whoever ends it later; the longest name of a socket in the folder. */
export const SOCKET_NAME = 'monitor';
/** Where we listen for it. */
const OWN_SOCKET_NAME = 'own';

/** As `--chardev` takes them; their ids are their names here. */
export interface Chardevs {
  readonly own: string;
  readonly monitor: string;
}

export type Launched = Pick<Program, 'pid' | 'stderr' | 'ended' | 'kill'>;

/** Somebody else whose children daemons are, so that they end with it. */
export interface DaemonOwner {
  /** `what`: for whoever finds what it has left. */
  readonly record: (what: string) => LockOwner;
  /** A daemon with monitors on these chardevs. */
  readonly launch: (chardevs: Chardevs) => Launched;
}

/** @throws QmpBackupError `failed` in the daemon's words; the signal's reason */
export async function startStorageDaemon({ what, owner, signal }: DaemonOptions): Promise<StorageDaemon> {
  signal.throwIfAborted();
  const folder = await makePrivateFolder(owner?.record(what) ?? thisProcess(what));
  try {
    refuseLongPath(join(folder, SOCKET_NAME));
    const own = join(folder, OWN_SOCKET_NAME);
    const server = createServer();
    await listenAt(server, own);
    const call = awaitCall(server, signal);
    try {
      const chardevs = chardevsIn(folder);
      const program = owner ? owner.launch(chardevs) : await launch(chardevs);
      try {
        const socket = await Promise.race([call, program.ended.then((end) => Promise.reject(failed(wordsOf(end))))]);
        const qmp = await QmpClient.over(socket, { kind: 'unix', path: own }, { signal });
        return daemonOf(program, qmp, folder);
      } catch (error) {
        await program.kill();
        throw error;
      }
    } finally {
      server.close();
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

/**
 * It calls us. A client that comes to a monitor which listens, in the instant in which that is set up, is greeted twice or
 * takes its parser in mid-work (docs/qemu-notes.md).
 */
function chardevsIn(folder: string): Chardevs {
  const socket = (name: string): string => `socket,id=${name},path=${join(folder, name).replaceAll(',', ',,')}`;
  return { own: `${socket(OWN_SOCKET_NAME)},server=off`, monitor: `${socket(SOCKET_NAME)},server=on,wait=off` };
}

function launch({ own, monitor }: Chardevs): Promise<Launched> {
  const chardevs = ['--chardev', own, '--monitor', 'chardev=own', '--chardev', monitor, '--monitor', 'chardev=monitor'];
  const daemon = [PROGRAM, ...chardevs];
  return startProgram('setpriv', ['--pdeathsig', 'TERM', 'sh', '-c', WITH_PARENT, `${process.pid}`, ...daemon], {
    ...{ ownSession: true, termMs: TERM_MS },
    onStdout: () => undefined,
  });
}

/** The first connection. Rejects when it does not come in time, or with the signal's reason. */
function awaitCall(server: Server, signal: AbortSignal): Promise<Socket> {
  const late = AbortSignal.timeout(START_MS);
  const call = once(server, 'connection', { signal: AbortSignal.any([signal, late]) }).then(
    ([socket]) => socket as Socket,
    (error: unknown) => {
      signal.throwIfAborted();
      throw late.aborted ? failed(`it did not call within ${START_MS / 1000} s`) : error;
    },
  );
  // Whoever waits no more has another reason to tell.
  call.catch(() => undefined);
  return call;
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

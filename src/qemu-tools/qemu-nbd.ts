/**
 * Runs one qemu-nbd, for one client unless told. It ends when that client leaves, when it is told to, or with this
 * process, however that died. Its socket lies in a folder of its own that nobody else may enter.
 */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type BlockNodeSpec, nameOfNode } from '../core/block-node.js';
import { QmpBackupError } from '../errors.js';
import { type ProgramEnd, startProgram } from '../host/program.js';
import { within } from '../host/within.js';

export interface QemuNbdOptions {
  /** The block node to serve. Names in it should be absolute. */
  readonly node: BlockNodeSpec;
  readonly readOnly?: boolean;
  /** Serves until it is told to end, and several clients at a time. */
  readonly persistent?: boolean;
  /** A persistent dirty bitmap to export beside the data, as `qemu:dirty-bitmap:NAME`. */
  readonly bitmap?: string;
  /** Tells what the image holds itself (`OWN_CLUSTERS` of nbd/meta-contexts). */
  readonly ownClusters?: boolean;
  /** A write of zeros becomes an explicit zero cluster, without space of its own. */
  readonly detectZeroes?: boolean;
  /** Where its private folder is made; default the system's folder for temporary files. */
  readonly folder?: string;
  /** Ends it. */
  readonly signal?: AbortSignal;
  /** Until it listens, in ms. Default 30 s. */
  readonly startMs?: number;
}

export interface QemuNbd {
  /** Of the unix socket; the export's name is empty. */
  readonly socketPath: string;
  readonly pid: number;
  /**
   * Waits until it ends by itself, after its client has left, and removes its folder. `ms`: default ten minutes, for it
   * writes what it holds.
   *
   * @throws QmpBackupError `failed` in qemu-nbd's words unless it ended well.
   */
  readonly ended: (ms?: number) => Promise<void>;
  /** What to say of a client's lost connection: qemu-nbd's own words where it died, else the error as it is. */
  readonly explain: (error: unknown) => Promise<unknown>;
  /**
   * Ends it whatever it does, and removes its folder. What it held may be lost. Never throws; harmless once ended. One
   * that its storage keeps in the kernel is left behind, killed.
   */
  readonly kill: () => Promise<void>;
}

const START_MS = 30_000;
const END_MS = 600_000;
const TERM_MS = 5_000;
/** A connection is seen to be lost before the process is seen to be gone. */
const DYING_MS = 500;
const POLL_MS = 5;
const MAX_WORDS = 4000;
const MANY_CLIENTS = 8;

/** @throws QmpBackupError `failed` in qemu-nbd's words; the signal's reason. */
export async function startQemuNbd(options: QemuNbdOptions): Promise<QemuNbd> {
  const { signal, startMs = START_MS } = options;
  signal?.throwIfAborted();
  const folder = await mkdtemp(join(options.folder ?? tmpdir(), 'qmpbackup-nbd-'));
  const [socketPath, pidFile] = [join(folder, 'socket'), join(folder, 'pid')];
  const args = [
    ...[`--socket=${socketPath}`, `--pid-file=${pidFile}`],
    ...(options.readOnly ? ['--read-only'] : []),
    ...(options.persistent ? ['--persistent', `--shared=${MANY_CLIENTS}`] : []),
    ...(options.bitmap === undefined ? [] : [`--bitmap=${options.bitmap}`]),
    ...(options.ownClusters ? ['--allocation-depth'] : []),
    ...(options.detectZeroes ? ['--detect-zeroes=on'] : []),
    nameOfNode(options.node),
  ];
  const running = await run(args);
  const kill = async (): Promise<void> => {
    signal?.removeEventListener('abort', onAbort);
    await running.kill();
    await rm(folder, { recursive: true, force: true });
  };
  // The listener is there for a caller that does not come round to `kill` for long.
  const onAbort = (): void => void running.kill();
  signal?.addEventListener('abort', onAbort, { once: true });
  try {
    await listening(running, pidFile, startMs, signal);
  } catch (error) {
    await kill();
    throw error;
  }
  return {
    socketPath,
    pid: running.pid,
    kill,
    explain: async (error) => {
      const exit = await within(DYING_MS, running.exited);
      return exit === undefined || exit.code === 0 ? error : failed(exit.words, error);
    },
    ended: async (ms = END_MS) => {
      const exit = await within(ms, running.exited);
      await kill();
      signal?.throwIfAborted();
      if (exit === undefined) throw failed(`it did not end within ${ms / 1000} s`);
      if (exit.code !== 0) throw failed(exit.words);
    },
  };
}

/** It writes its pid file when the image is open and clients are welcome. */
async function listening(
  running: Running,
  pidFile: string,
  startMs: number,
  signal: AbortSignal | undefined,
): Promise<void> {
  const until = performance.now() + startMs;
  for (;;) {
    const exit = await within(POLL_MS, running.exited);
    // It may have aborted before there was anything to end.
    signal?.throwIfAborted();
    if (exit !== undefined) throw failed(exit.words);
    if (await isWritten(pidFile)) return;
    if (performance.now() > until) throw failed(`it did not begin to serve within ${startMs / 1000} s`);
  }
}

async function isWritten(pidFile: string): Promise<boolean> {
  try {
    return (await readFile(pidFile, 'utf8')).endsWith('\n');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw error;
  }
}

interface Exit {
  readonly code: number | null;
  readonly words: string;
}

interface Running {
  readonly pid: number;
  readonly exited: Promise<Exit>;
  readonly kill: () => Promise<void>;
}

async function run(args: readonly string[]): Promise<Running> {
  // setpriv (util-linux) becomes qemu-nbd and has the kernel end it with us, also when we are killed before we connect.
  const { pid, ended, kill } = await startProgram('setpriv', ['--pdeathsig', 'TERM', 'qemu-nbd', ...args], {
    onStdout: () => undefined,
    termMs: TERM_MS,
  });
  return { pid, exited: ended.then(exitOf), kill };
}

function exitOf({ exitCode, signal, stderr, failure }: ProgramEnd): Exit {
  if (failure !== null) return { code: null, words: failure.message };
  const words = stderr
    .slice(-MAX_WORDS)
    .trim()
    .replace(/^(qemu-nbd|setpriv): /gm, '')
    .replace(/\n+/g, '; ');
  return { code: exitCode, words: words === '' ? `it ended with ${signal ?? `exit code ${exitCode}`}` : words };
}

function failed(words: string, cause?: unknown): QmpBackupError {
  const missing = /(ENOENT|failed to execute .*No such file)/.test(words);
  return new QmpBackupError('failed', `qemu-nbd failed: ${words}`, {
    cause,
    ...(missing ? { hint: 'Install qemu-nbd and setpriv: apt install qemu-utils util-linux' } : {}),
  });
}

import type { FileHandle } from 'node:fs/promises';
import { codeOf } from './file-errors.js';
import { within } from './within.js';

/** Runs other programs: with an array of arguments, never through a shell, and their words in English unless told otherwise. */
export interface ProgramOptions {
  /** Relative names in the arguments are meant from here. */
  readonly cwd?: string | undefined;
  /** Default: ours, with `LC_ALL=C`. */
  readonly env?: NodeJS.ProcessEnv;
  /** Ends it. */
  readonly signal?: AbortSignal | undefined;
  /** All of its stdin, which is empty otherwise; `pipe` where it is told more and more. */
  readonly stdin?: 'pipe' | { readonly text: string };
  /** Takes what it prints as it comes; otherwise that is kept until it ends. */
  readonly onStdout?: (text: string) => void;
  /** What it complains of as it comes, which is kept all the same. */
  readonly onStderr?: (text: string) => void;
  /** Its descriptors from `FIRST_FILE` on. */
  readonly files?: readonly FileHandle[];
  /** In a session of its own: a Ctrl-C is for us, and what we then undo may need it. */
  readonly ownSession?: boolean;
  /** In a session of its own, too; it is ended with all that it has started. */
  readonly ownGroup?: boolean;
  /** It may end itself when told to, in that time; otherwise it is killed at once. Milliseconds. */
  readonly termMs?: number;
}

export interface ProgramEnd {
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
  /** Why it was not started, or not heard to its end. */
  readonly failure: NodeJS.ErrnoException | null;
}

export interface Program {
  /** 0 where it was not started. */
  readonly pid: number;
  /** Never rejects. */
  readonly ended: Promise<ProgramEnd>;
  /** More for its stdin. What it cannot read any more is told by its end. */
  readonly tell: (text: string) => void;
  /** What it has said on stderr until now. */
  readonly stderr: () => string;
  /**
   * Ends it, whatever it does, and waits for that; harmless once it has ended. One that its storage keeps in the kernel is
   * left behind, killed, and holds nothing of ours.
   */
  readonly kill: () => Promise<void>;
}

export const FIRST_FILE = 3;
const KILL_MS = 2_000;
/** Characters. `qemu-img map` of a scattered image prints a line per extent. */
const MAX_OUTPUT = 256 * 1024 * 1024;

/** Resolves when it runs, or could not be started: `ended` tells which. */
export async function startProgram(
  name: string,
  args: readonly string[],
  options: ProgramOptions = {},
): Promise<Program> {
  // Read with the first program: an increment into which nothing is copied starts none (docs/decisions/0001).
  const { execa } = await import('execa');
  const { cwd, env = { ...process.env, LC_ALL: 'C' }, signal, stdin, files = [], termMs = 0 } = options;
  const { onStdout, onStderr, ownGroup = false } = options;
  const ownSession = ownGroup || (options.ownSession ?? false);
  const child = execa(name, args, {
    ...{ ...(cwd === undefined ? {} : { cwd }), env, extendEnv: false },
    // A descriptor is passed on as it is, which its types do not say of more than the first three.
    stdio: [stdin === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe', ...files.map(({ fd }) => fd as 0)],
    ...(typeof stdin === 'object' ? { input: stdin.text } : {}),
    // None outlives us, however we end, but in a session of its own.
    ...{ detached: ownSession, cleanup: !ownSession },
    // Its output is taken below, and it is ended by `kill`.
    ...{ reject: false, buffer: false, forceKillAfterDelay: false },
  });
  let [stdout, stderr] = ['', ''];
  let failure: NodeJS.ErrnoException | null = null;
  let leave = (): void => undefined;
  const left = new Promise<Outcome>((resolve) => (leave = () => resolve({ signal: 'SIGKILL' })));
  const ended = Promise.race([child, left]).then((outcome: Outcome): ProgramEnd => {
    signal?.removeEventListener('abort', onAbort);
    const { exitCode = null, signal: by = null } = outcome;
    if (exitCode === null && by === null) failure ??= causeOf(outcome);
    return { exitCode, signal: by, stdout, stderr, failure };
  });
  const gone = Promise.race([ended, new Promise<true>((resolve) => child.once('exit', () => resolve(true)))]);

  const send = (by: 'SIGTERM' | 'SIGKILL'): void => {
    if (ownGroup && child.pid !== undefined) signalGroup(child.pid, by);
    else child.kill(by);
  };
  const kill = async (): Promise<void> => {
    if (termMs > 0) send('SIGTERM');
    // Of a group some may be left although its first has ended.
    if (termMs === 0 || (await within(termMs, ended)) === undefined || ownGroup) {
      send('SIGKILL');
      await within(KILL_MS, gone);
    }
    // It may be there all the same, and so may what it has started, with its pipes.
    for (const pipe of [child.stdin, child.stdout, child.stderr]) pipe?.destroy();
    child.unref();
    leave();
  };
  const onAbort = (): void => void kill();
  if (signal?.aborted) onAbort();
  else signal?.addEventListener('abort', onAbort, { once: true });

  const tooMuch = (): void => {
    failure ??= new Error(`it printed more than ${MAX_OUTPUT} characters`);
    void kill();
  };
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    if (onStdout) onStdout(text);
    else if ((stdout += text).length > MAX_OUTPUT) tooMuch();
  });
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    if ((stderr += text).length > MAX_OUTPUT) tooMuch();
    onStderr?.(text);
  });
  // What it does not read is told by its end.
  child.stdin?.on('error', () => undefined);
  return {
    pid: child.pid ?? 0,
    ended,
    tell: (text) => void child.stdin?.write(text),
    stderr: () => stderr,
    kill,
  };
}

/** All that are left of it: none where it has ended. */
function signalGroup(pid: number, by: NodeJS.Signals): void {
  try {
    process.kill(-pid, by);
  } catch (error) {
    if (codeOf(error) !== 'ESRCH') throw error;
  }
}

interface Outcome {
  readonly exitCode?: number | undefined;
  readonly signal?: NodeJS.Signals | undefined;
  readonly cause?: unknown;
}

function causeOf({ cause }: Outcome): NodeJS.ErrnoException {
  return cause instanceof Error ? cause : new Error('it could not be started', { cause });
}

export interface ShortProgram extends ProgramOptions {
  /** Milliseconds after which it is killed. */
  readonly timeoutMs: number;
}

/** One that ends by itself; `late` where that was not in time. */
export async function runProgram(
  name: string,
  args: readonly string[],
  { timeoutMs, ...options }: ShortProgram,
): Promise<ProgramEnd & { readonly late: boolean }> {
  const program = await startProgram(name, args, options);
  const late = (await within(timeoutMs, program.ended)) === undefined;
  if (late) await program.kill();
  return { ...(await program.ended), late };
}

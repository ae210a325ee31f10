import { existsSync, readFileSync } from 'node:fs';
import { messageOf, QmpBackupError } from '../errors.js';
import { type ProgramEnd, runProgram, startProgram } from '../host/program.js';
import { untoldErrors } from './errors-on-success.js';
import { createProgressReader } from './progress-line.js';

/**
 * Runs qemu-img: short runs with a deadline, long ones with progress. Never through a shell, always with LC_ALL=C.
 */
export interface ImgResult {
  readonly exitCode: number;
  readonly stdout: string;
}

export interface ShortRun {
  /** Relative names in the arguments are meant from here. */
  readonly cwd?: string | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Milliseconds; default one minute. */
  readonly timeoutMs?: number | undefined;
  /** Exit codes that are an answer and no error; default 0 alone. */
  readonly allowed?: readonly number[] | undefined;
}

export interface LongRun {
  readonly cwd?: string | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly allowed?: readonly number[] | undefined;
  /** Called with percent done, 0 to 100, as qemu-img prints it. `-p` must be among the arguments. */
  readonly onProgress?: ((percent: number) => void) | undefined;
  /**
   * Called every second with the CPU time that it has taken, in nanoseconds. qemu-img tells of whole percents only, and
   * one percent of a large disk may take long: what gets on takes CPU time, what hangs was seen to take none at all.
   * Linux only, and where the kernel has /proc/PID/schedstat.
   */
  readonly onWork?: ((cpuNs: number) => void) | undefined;
}

/** qemu-img is not installed, or not in PATH. */
export class QemuImgMissing extends QmpBackupError {
  constructor(cause: unknown) {
    super('failed', 'qemu-img was not found', { cause, hint: 'Install it: apt install qemu-utils' });
  }
}

const PROGRAM = 'qemu-img';
const SHORT_MS = 60_000;
const TERM_MS = 5_000;
const WORK_MS = 1_000;

/**
 * A run that ends by itself soon.
 *
 * @throws QmpBackupError `failed` with qemu-img's own words; `QemuImgMissing`; the signal's reason when it aborted.
 */
export async function runShort(args: readonly string[], options: ShortRun = {}): Promise<ImgResult> {
  const { cwd, signal, timeoutMs = SHORT_MS, allowed = [0] } = options;
  signal?.throwIfAborted();
  const end = await runProgram(PROGRAM, args, { cwd, signal, timeoutMs });
  signal?.throwIfAborted();
  if (end.late) throw failed(args, `it did not end within ${timeoutMs / 1000} s`);
  return resultOf(args, end, { cwd, allowed });
}

/**
 * A run that may take hours. It has no deadline; `signal` ends it, with SIGTERM and, where that is not heeded, SIGKILL.
 *
 * @throws as `runShort`.
 */
export async function runLong(args: readonly string[], options: LongRun = {}): Promise<ImgResult> {
  const { cwd, signal, allowed = [0], onProgress, onWork } = options;
  signal?.throwIfAborted();
  const reader = createProgressReader();
  const program = await startProgram(PROGRAM, args, {
    ...{ cwd, signal, termMs: TERM_MS },
    // The progress of a long run would pile up.
    onStdout: (chunk) => {
      const percent = reader(chunk);
      if (percent !== undefined) onProgress?.(percent);
    },
  });
  const looks = onWork && setInterval(() => tellWork(program.pid, onWork), WORK_MS);
  const end = await program.ended;
  clearInterval(looks);
  signal?.throwIfAborted();
  const untold = end.exitCode === 0 ? untoldErrors(end.stderr) : null;
  if (untold !== null) throw failed(args, untold);
  return resultOf(args, end, { cwd, allowed });
}

function resultOf(
  args: readonly string[],
  { exitCode, signal, stdout, stderr, failure }: ProgramEnd,
  { cwd, allowed }: { readonly cwd: string | undefined; readonly allowed: readonly number[] },
): ImgResult {
  if (failure?.code === 'ENOENT') throw notStarted(cwd, failure);
  if (failure !== null) throw failed(args, messageOf(failure), failure);
  if (exitCode !== null && allowed.includes(exitCode)) return { exitCode, stdout };
  throw failed(args, stderr.trim() || `it ended with ${signal ?? `exit code ${exitCode}`}`);
}

/** Of its main thread, which does all but the writing itself. */
function tellWork(pid: number, onWork: (cpuNs: number) => void): void {
  try {
    onWork(Number.parseInt(readFileSync(`/proc/${pid}/schedstat`, 'utf8'), 10));
  } catch (error) {
    // It was not started, has ended, or the kernel does not tell.
    if (!['ENOENT', 'ESRCH'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
  }
}

/** A working directory that is gone looks just as a missing program does. */
function notStarted(cwd: string | undefined, cause: unknown): QmpBackupError {
  if (cwd !== undefined && !existsSync(cwd)) {
    return new QmpBackupError('failed', `the folder ${cwd} is gone`, { cause });
  }
  return new QemuImgMissing(cause);
}

function failed(args: readonly string[], why: string, cause?: unknown): QmpBackupError {
  const words = why
    .replace(/^qemu-img: /gm, '')
    .replace(VIEW, "'$1'")
    .replace(EXPORT, "the export '$1'")
    .replace(/\n+/g, '; ');
  const short = words.length > 2000 ? `${words.slice(0, 1000)} ... ${words.slice(-1000)}` : words;
  return new QmpBackupError('failed', `qemu-img ${args[0] ?? ''} failed: ${short}`, { cause });
}

/** A view (`image-view.ts`) of a long chain has many kilobytes, and qemu-img repeats it: its first file name is enough. */
const VIEW = /'?json:\{.*?"filename": ?"((?:[^"\\]|\\.)*)".*\}'?/g;
const EXPORT = /'?json:\{.*?"export": ?"((?:[^"\\]|\\.)*)".*\}'?/g;

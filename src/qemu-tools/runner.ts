import { execFile } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { promisify } from 'node:util';
import { execa } from 'execa';
import { messageOf, QmpBackupError } from '../errors.js';
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
const WORK_MS = 1_000;
/** `qemu-img map` of a scattered image prints a line per extent. */
const MAX_OUTPUT = 256 * 1024 * 1024;

const execFileAsync = promisify(execFile);

/**
 * A run that ends by itself soon.
 *
 * @throws QmpBackupError `failed` with qemu-img's own words; `QemuImgMissing`; the signal's reason when it aborted.
 */
export async function runShort(args: readonly string[], options: ShortRun = {}): Promise<ImgResult> {
  const { cwd, signal, timeoutMs = SHORT_MS, allowed = [0] } = options;
  signal?.throwIfAborted();
  try {
    const { stdout } = await execFileAsync(PROGRAM, args, {
      cwd,
      signal,
      timeout: timeoutMs,
      killSignal: 'SIGKILL',
      maxBuffer: MAX_OUTPUT,
      env: { ...process.env, LC_ALL: 'C' },
    });
    return { exitCode: 0, stdout };
  } catch (error) {
    signal?.throwIfAborted();
    const failure = error as Partial<ExecFailure>;
    if (failure.code === 'ENOENT') throw notStarted(cwd, error);
    if (typeof failure.code === 'number' && allowed.includes(failure.code)) {
      return { exitCode: failure.code, stdout: failure.stdout ?? '' };
    }
    const why = failure.killed ? `it did not end within ${timeoutMs / 1000} s` : failure.stderr?.trim();
    throw failed(args, why === undefined || why === '' ? messageOf(error) : why, error);
  }
}

/** What `execFile` rejects with. */
interface ExecFailure {
  readonly code: number | string | null;
  readonly killed: boolean;
  readonly stdout: string;
  readonly stderr: string;
}

/**
 * A run that may take hours. It has no deadline; `signal` ends it, with SIGTERM and, where that is not heeded, SIGKILL.
 *
 * @throws as `runShort`.
 */
export async function runLong(args: readonly string[], options: LongRun = {}): Promise<ImgResult> {
  const { cwd, signal, allowed = [0], onProgress, onWork } = options;
  signal?.throwIfAborted();
  const child = execa(PROGRAM, args, {
    env: { LC_ALL: 'C' },
    stdin: 'ignore',
    // The progress of a long run would pile up; only the last words of a failure are wanted.
    buffer: { stdout: false },
    reject: false,
    forceKillAfterDelay: 5_000,
    ...(cwd === undefined ? {} : { cwd }),
    ...(signal ? { cancelSignal: signal } : {}),
  });
  const reader = createProgressReader();
  child.stdout.setEncoding('utf8');
  child.stdout.on('data', (chunk: string) => {
    const percent = reader(chunk);
    if (percent !== undefined) onProgress?.(percent);
  });
  const looks = onWork && setInterval(() => tellWork(child.pid, onWork), WORK_MS);
  const result = await child;
  clearInterval(looks);
  signal?.throwIfAborted();
  if (result.code === 'ENOENT') throw notStarted(cwd, result.cause);
  const { exitCode } = result;
  const untold = exitCode === 0 ? untoldErrors(result.stderr) : null;
  if (untold !== null) throw failed(args, untold, undefined);
  if (exitCode !== undefined && allowed.includes(exitCode)) return { exitCode, stdout: '' };
  const words = result.stderr.trim();
  throw failed(args, words === '' ? (result.shortMessage ?? 'it ended without an exit code') : words, result.cause);
}

/** Of its main thread, which does all but the writing itself. */
function tellWork(pid: number | undefined, onWork: (cpuNs: number) => void): void {
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

function failed(args: readonly string[], why: string, cause: unknown): QmpBackupError {
  const words = why
    .replace(/^qemu-img: /gm, '')
    .replace(VIEW, "'$1'")
    .replace(/\n+/g, '; ');
  const short = words.length > 2000 ? `${words.slice(0, 1000)} … ${words.slice(-1000)}` : words;
  return new QmpBackupError('failed', `qemu-img ${args[0] ?? ''} failed: ${short}`, { cause });
}

/** A view (`image-view.ts`) of a long chain has many kilobytes, and qemu-img repeats it: its first file name is enough. */
const VIEW = /'?json:\{.*?"filename": ?"((?:[^"\\]|\\.)*)".*\}'?/g;

import { formatBytes } from '../core/bytes.js';
import type { JobState } from '../core/disk.js';
import { runningOut } from '../core/space.js';
import { messageOf, QmpBackupError } from '../errors.js';

/**
 * Watches, while a run is under way, that the places it writes to have space and answer, and that its jobs get on. A
 * plain backup job holds up the guest's writes while its target hangs, and fails them when it is full: both end the run
 * first. Whatever then does not end, because it touches a file system that hangs, is given up: nothing waits for ever.
 */
export interface WatchedPlace {
  /** A folder or file that is there. */
  readonly path: string;
  /** In words: `the target /backup`. */
  readonly what: string;
  /** Bytes that must stay free. */
  readonly floor: number;
  /** The run can need more than is there: it ends earlier where space goes fast. */
  readonly tight: boolean;
}

export type SeenJob = Pick<JobState, 'id' | 'status' | 'current'> & {
  /** Grows while the job gets on, also where `current` does not: it may come in large steps. */
  readonly work?: number;
};

export interface TargetWatchOptions {
  /** How long a file system may not answer, and no job get on, in milliseconds. */
  readonly stallMs: number;
  /** Bytes per second of each job; 0 is no limit. */
  readonly speedLimit: number;
  /** Free bytes of the file system of a path. On a hung one it never settles. */
  readonly ask: (path: string) => Promise<{ readonly free: number }>;
}

/** Milliseconds between two looks. */
const POLL_MS = 100;
/** How long what hangs may take to end once it was told to, in milliseconds. */
const HUNG_MS = 5_000;
/** As much for a run that is ended for another reason. */
const ENDING_MS = 30_000;
/** The largest piece that a job copies in one go, and so the steps in which it gets on under a speed limit, in bytes. */
const LARGEST_PIECE = 16 * 1024 * 1024;

interface Place extends WatchedPlace {
  free: number | undefined;
  askedAt: number | undefined;
}

export class TargetWatch {
  /** Aborts, with the error to report, when the run has to end. */
  readonly signal: AbortSignal;
  /** Aborts, with the error to report, when the run did not end although it was told to. */
  readonly givenUp: AbortSignal;

  readonly #options: TargetWatchOptions;
  readonly #end = new AbortController();
  readonly #giveUp = new AbortController();
  readonly #places: Place[] = [];
  readonly #enders: AbortSignal[] = [];
  readonly #timer: NodeJS.Timeout;
  /** Milliseconds that this process ran: while it is stopped, nothing can be seen to answer. */
  #clock = 0;
  #lookedAt = performance.now();
  #endingSince: number | undefined;
  #limitMs: number;
  #jobs: { readonly seen: string; readonly since: number } | undefined;

  constructor(options: TargetWatchOptions) {
    this.#options = options;
    this.#limitMs = options.stallMs;
    this.signal = this.#end.signal;
    this.givenUp = this.#giveUp.signal;
    this.#timer = setInterval(() => this.#look(), POLL_MS);
  }

  /** When `signal` aborts, the run has to end too, and is given up where it cannot. */
  endBy(signal: AbortSignal): void {
    this.#enders.push(signal);
  }

  /** Begins to watch a place, or goes on with another floor. */
  watch(place: WatchedPlace): void {
    const known = this.#places.find(({ path }) => path === place.path);
    if (known) Object.assign(known, { floor: place.floor, tight: place.tight });
    else this.#places.push({ ...place, free: undefined, askedAt: undefined });
  }

  /** The jobs of the run as they are now: from the first call on until `jobsEnded` they have to get on. */
  sawJobs(jobs: readonly SeenJob[]): void {
    const seen = JSON.stringify(jobs.map(({ id, status, current, work }) => [id, status, current, work]).sort());
    if (seen !== this.#jobs?.seen) this.#jobs = { seen, since: this.#clock };
  }

  jobsEnded(): void {
    this.#jobs = undefined;
  }

  /** What `task` comes to, but no later than `graceMs` after the run was given up. */
  async whileAnswering<T>(task: Promise<T>, graceMs = 0): Promise<T> {
    let timer: NodeJS.Timeout | undefined;
    let over = (): void => undefined;
    const end = new Promise<never>((_, reject) => {
      over = () => void (timer = setTimeout(() => reject(this.givenUp.reason as Error), graceMs));
    });
    if (this.givenUp.aborted) over();
    else this.givenUp.addEventListener('abort', over, { once: true });
    try {
      return await Promise.race([task, end]);
    } finally {
      this.givenUp.removeEventListener('abort', over);
      clearTimeout(timer);
    }
  }

  close(): void {
    clearInterval(this.#timer);
  }

  #look(): void {
    const now = performance.now();
    this.#clock += Math.min(now - this.#lookedAt, 2 * POLL_MS);
    this.#lookedAt = now;
    if (this.#enders.some(({ aborted }) => aborted)) this.#begin(Math.min(this.#options.stallMs, ENDING_MS));
    for (const place of this.#places) {
      if (place.askedAt === undefined) this.#ask(place);
      else if (this.#waited(place.askedAt) > this.#limitMs) this.#stalled(placeHangs(place, this.#limitMs));
    }
    if (this.#jobs && this.#waited(this.#jobs.since) > this.#limitMs + this.#slowness()) {
      this.#stalled(jobsHang(this.#limitMs));
    }
  }

  #ask(place: Place): void {
    place.askedAt = this.#clock;
    this.#options.ask(place.path).then(
      ({ free }) => {
        const { free: before = free, floor, tight } = place;
        place.askedAt = undefined;
        place.free = free;
        if (runningOut({ free, before, floor, tight })) this.#abort(spaceRunsOut(place, free), ENDING_MS);
      },
      (error: unknown) => {
        place.askedAt = undefined;
        this.#abort(placeIsGone(place, error), ENDING_MS);
      },
    );
  }

  #waited(since: number): number {
    return this.#clock - Math.max(since, this.#endingSince ?? 0);
  }

  /** A cancelled job is not held back by its limit. */
  #slowness(): number {
    const { speedLimit } = this.#options;
    return speedLimit === 0 || this.#endingSince !== undefined ? 0 : (LARGEST_PIECE / speedLimit) * 1000;
  }

  /** Ends the run; one that has been told to end already is given up. */
  #stalled(error: QmpBackupError): void {
    if (this.#endingSince === undefined) this.#abort(error, HUNG_MS);
    else if (!this.givenUp.aborted) this.#giveUp.abort(leftBehind(this.signal.aborted ? this.signal.reason : error));
  }

  #abort(error: QmpBackupError, limitMs: number): void {
    if (this.signal.aborted || this.#endingSince !== undefined) return;
    this.#begin(Math.min(this.#options.stallMs, limitMs));
    this.#end.abort(error);
  }

  #begin(limitMs: number): void {
    if (this.#endingSince !== undefined) return;
    this.#endingSince = this.#clock;
    this.#limitMs = limitMs;
  }
}

const NOTHING_LOST = 'No point was made and no change is lost: the next run copies it all.';

function spaceRunsOut({ what, floor }: WatchedPlace, free: number): QmpBackupError {
  const left = `${formatBytes(free)} are left, ${formatBytes(floor)} have to stay free`;
  return new QmpBackupError('failed', `the space on ${what} runs out: ${left}; the jobs were cancelled in time`, {
    hint: `${NOTHING_LOST} Free space there, or keep less in reserve (--reserve), then run it again.`,
  });
}

function placeHangs({ what }: WatchedPlace, ms: number): QmpBackupError {
  return new QmpBackupError('failed', `${what} hangs: its file system has not answered for ${ms / 1000} s`, {
    hint: `${NOTHING_LOST} Look for its server or the network, then run it again.`,
  });
}

function jobsHang(ms: number): QmpBackupError {
  return new QmpBackupError('failed', `the backup hangs: no job got on for ${ms / 1000} s (--stall-timeout)`, {
    hint: `${NOTHING_LOST} The target answers; look at the storage of the VM's disks and whether somebody paused a job.`,
  });
}

function placeIsGone({ what }: WatchedPlace, error: unknown): QmpBackupError {
  return new QmpBackupError('failed', `${what} cannot be reached any more: ${messageOf(error)}`, {
    cause: error,
    hint: `${NOTHING_LOST} Look whether it is still mounted, then run it again.`,
  });
}

function leftBehind(why: unknown): QmpBackupError {
  return new QmpBackupError('failed', `${messageOf(why)}; the run was given up, because it could not be ended`, {
    cause: why,
    hint:
      'No change is lost. What is left of this run (jobs in QEMU, run.json, .partial files), the next run ends and takes ' +
      "away when the target answers again. Without fleecing the guest's writes may wait for it until then.",
  });
}

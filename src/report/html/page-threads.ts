import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import { mayHaveThreads } from '../../host/hash-threads.js';
import { type MadePage, makePages, type PageTask } from './made-page.js';

/** The pages of many VMs are made by as many threads as there are processors: what a page shows takes longer to make than to read. */

const THREAD_PROGRAM = new URL('./page-thread-main.js', import.meta.url);

/** Each takes some 200 MB and a processor from the guests. */
const MOST_THREADS = 4;
const THREADS = Math.min(availableParallelism(), MOST_THREADS);

/** MB of V8's young heap, four times what it is else: a VM of 720 points takes 30, and what is in use is copied each time that it is full. */
const YOUNG_MB = 192;

/** While a file is read for one page, a thread goes on with the other. */
const PAGES_EACH = 2;

/** Of how many sources pages are made at a time. */
export const LANES = THREADS * PAGES_EACH;

/** Fewer are made before threads have started. */
const WORTH_THREADS = 8;

type MakePages = (task: PageTask) => Promise<readonly MadePage[]>;

/** What a thread is told, and what it answers; each has the number of its task. */
export interface ToPageThread {
  readonly id: number;
  readonly task: PageTask;
}

export interface FromPageThread {
  readonly id: number;
  readonly pages: readonly MadePage[];
}

/** For `tasks` pages, of which `body` may ask for `LANES` at a time. */
export async function withPageThreads<T>(
  tasks: number,
  signal: AbortSignal,
  body: (make: MakePages) => Promise<T>,
): Promise<T> {
  if (THREADS === 1 || tasks < WORTH_THREADS || !mayHaveThreads()) return body(makePages);
  const threads = newThreads();
  const endAll = (): void => threads.forEach((each) => each.fail(signal.reason));
  signal.addEventListener('abort', endAll);
  try {
    return await body((task) => {
      const idlest = threads.toSorted((a, b) => a.waiting - b.waiting)[0];
      return idlest ? idlest.make(task) : makePages(task);
    });
  } finally {
    signal.removeEventListener('abort', endAll);
    await Promise.all(threads.map((each) => each.end()));
  }
}

/** As many as this user can have. */
function newThreads(): readonly PageThread[] {
  const threads: PageThread[] = [];
  try {
    while (threads.length < THREADS) threads.push(new PageThread());
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ERR_WORKER_INIT_FAILED') throw error;
  }
  return threads;
}

interface Waiting {
  readonly resolve: (pages: readonly MadePage[]) => void;
  readonly reject: (reason: unknown) => void;
}

class PageThread {
  readonly #worker = new Worker(THREAD_PROGRAM, { resourceLimits: { maxYoungGenerationSizeMb: YOUNG_MB } });
  readonly #waiting = new Map<number, Waiting>();
  #last = 0;

  constructor() {
    this.#worker.on('message', ({ id, pages }: FromPageThread) => {
      this.#waiting.get(id)?.resolve(pages);
      this.#waiting.delete(id);
    });
    this.#worker.on('error', (error) => this.fail(error));
  }

  get waiting(): number {
    return this.#waiting.size;
  }

  make(task: PageTask): Promise<readonly MadePage[]> {
    return new Promise((resolve, reject) => {
      const message: ToPageThread = { id: (this.#last += 1), task };
      this.#waiting.set(message.id, { resolve, reject });
      this.#worker.postMessage(message);
    });
  }

  /** What is asked of it has no answer any more. */
  fail(reason: unknown): void {
    for (const { reject } of this.#waiting.values()) reject(reason);
    this.#waiting.clear();
  }

  async end(): Promise<void> {
    await this.#worker.terminate();
  }
}

import { once } from 'node:events';
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import { mayHaveThreads } from '../../host/hash-threads.js';
import { type MadePage, makePages, type PageTask } from './made-page.js';

/** The pages of many VMs are made by as many threads as there are processors: what a page shows takes longer to make than to read. */

const THREAD_PROGRAM = new URL('./page-thread-main.js', import.meta.url);

/** Each takes some 100 MB and a processor from the guests. */
const MOST_THREADS = 4;

/** Fewer are made before threads have started. */
const WORTH_THREADS = 8;

/** Of how many sources pages are made at a time. */
export const LANES = Math.min(availableParallelism(), MOST_THREADS);

export type MakePages = (task: PageTask) => Promise<readonly MadePage[]>;

/** For `tasks` pages, of which `body` may ask for `LANES` at a time. It may only end when those have. */
export async function withPageThreads<T>(
  tasks: number,
  signal: AbortSignal,
  body: (make: MakePages) => Promise<T>,
): Promise<T> {
  if (LANES === 1 || tasks < WORTH_THREADS || !mayHaveThreads()) return body(makePages);
  const [all, idle] = [new Set<Worker>(), new Array<Worker>()];
  try {
    return await body(async (task) => {
      const thread = idle.pop() ?? newThread();
      if (!thread) return makePages(task);
      all.add(thread);
      thread.postMessage(task);
      const [pages] = (await once(thread, 'message', { signal })) as [readonly MadePage[]];
      idle.push(thread);
      return pages;
    });
  } finally {
    await Promise.all([...all].map((each) => each.terminate()));
  }
}

/** Undefined where this user can have no more. */
function newThread(): Worker | undefined {
  try {
    return new Worker(THREAD_PROGRAM);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ERR_WORKER_INIT_FAILED') throw error;
    return undefined;
  }
}

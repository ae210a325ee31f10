import { parentPort } from 'node:worker_threads';
import { makePages } from './made-page.js';
import type { FromPageThread, ToPageThread } from './page-threads.js';

/** What each thread of `withPageThreads` runs. */
parentPort?.on('message', (asked: ToPageThread) => void answer(asked));

async function answer({ id, task }: ToPageThread): Promise<void> {
  const pages = await makePages(task);
  const told: FromPageThread = { id, pages };
  parentPort?.postMessage(
    told,
    pages.map(({ bytes }) => bytes.buffer),
  );
}

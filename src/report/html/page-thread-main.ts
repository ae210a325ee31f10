import { parentPort } from 'node:worker_threads';
import { makePages, type PageTask } from './made-page.js';

/** What each thread of `withPageThreads` runs: the pages of one source after the other. */
parentPort?.on('message', (task: PageTask) => void answer(task));

async function answer(task: PageTask): Promise<void> {
  const pages = await makePages(task);
  parentPort?.postMessage(
    pages,
    pages.map(({ bytes }) => bytes.buffer),
  );
}

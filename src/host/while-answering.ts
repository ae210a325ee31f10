import { ANSWER_MS, freeSpace } from './free-space.js';
import { within } from './within.js';

/** A look that takes no longer is not judged, in milliseconds. */
const ASK_AFTER_MS = 1_000;

/**
 * What `reading` below `path` comes to, for as long as the file system there answers. How long it takes is no measure of that: the
 * processor may have other work, of ours above all, so a look that takes long is judged by a short one beside it.
 *
 * @throws FileSystemHangs; what `reading` throws
 */
export async function whileAnswering<T>(path: string, reading: Promise<T>): Promise<T> {
  const read = reading.then((value) => ({ value }));
  for (;;) {
    const done = await within(ASK_AFTER_MS, read);
    if (done) return done.value;
    const asked = freeSpace(path, { timeoutMs: ANSWER_MS });
    // What was read meanwhile counts, and what became of the question then concerns nobody.
    asked.catch(() => undefined);
    const first = await Promise.race([read, asked.then(() => null)]);
    if (first) return first.value;
  }
}

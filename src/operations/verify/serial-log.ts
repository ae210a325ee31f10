import { type FileHandle, open } from 'node:fs/promises';

/** What a guest says on its serial port, read as it comes: a guest can say much, and none of it is read twice. */

const PORTION = 1024 * 1024;
/** How long a text may be that a pattern fits on. Characters. */
const KEPT = 64 * 1024;

/** Tells, each time that it is asked, whether a pattern fits on what was said until then. */
export function serialMatcher(path: string, pattern: string): () => Promise<boolean> {
  const regex = new RegExp(pattern, 'm');
  let [at, kept, fits] = [0, '', false];
  return async () => {
    if (fits) return true;
    await reading(path, async (log) => {
      for (;;) {
        const { bytesRead, buffer } = await log.read(Buffer.alloc(PORTION), 0, PORTION, at);
        if (bytesRead === 0) return;
        at += bytesRead;
        const text = kept + buffer.subarray(0, bytesRead).toString('latin1');
        if ((fits = regex.test(text))) return;
        kept = endOf(text);
      }
    });
    return fits;
  };
}

/** With something before it, so that `^` does not fit where a line was cut. */
function endOf(text: string): string {
  return text.length <= KEPT ? text : `\0${text.slice(-KEPT)}`;
}

const MOST_WORDS = 200;

/** The last line that the guest has said on its serial port. */
export async function lastWords(path: string): Promise<string | null> {
  const text = await reading(path, async (log) => {
    const { size } = await log.stat();
    const { bytesRead, buffer } = await log.read(Buffer.alloc(KEPT), 0, KEPT, Math.max(0, size - KEPT));
    return buffer.toString('utf8', 0, bytesRead);
  });
  const line = text
    .replace(/\p{C}/gu, (each) => (each === '\n' ? each : ' '))
    .split('\n')
    .findLast((each) => each.trim() !== '');
  return line?.trim().slice(-MOST_WORDS) ?? null;
}

async function reading<T>(path: string, body: (log: FileHandle) => Promise<T>): Promise<T> {
  const log = await open(path, 'r');
  try {
    return await body(log);
  } finally {
    await log.close();
  }
}

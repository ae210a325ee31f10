import { formatBytes } from '../core/bytes.js';
import { type Warn, warning } from '../core/warning.js';
import { freeSpace } from './free-space.js';

/** How long a file system may take to say what it has left, in milliseconds. */
const ANSWER_MS = 30_000;

/**
 * Tells before it begins that a copy may not fit into `folder`, which need not be there yet. `need` is the most that it
 * can take, in bytes: it may take less, so nothing is refused.
 */
export async function warnOfSpace(
  folder: string,
  { need, what }: { readonly need: number; readonly what: string },
  { warn, signal }: { readonly warn: Warn; readonly signal: AbortSignal },
): Promise<void> {
  const { free } = await freeSpace(folder, { timeoutMs: ANSWER_MS, signal });
  if (need <= free) return;
  warn(
    warning('space-short', `${folder} has ${formatBytes(free)} free, and ${what} may take up to ${formatBytes(need)}`),
  );
}

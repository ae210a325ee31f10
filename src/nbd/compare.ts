import type { Range } from '../core/extents.js';
import { pull, type PullProgress, type PullSource } from './pull.js';

interface CompareOptions {
  readonly signal: AbortSignal;
  readonly onProgress?: (progress: PullProgress) => void;
}

/** Bytes that are read and compared with zeros at a time. */
const STEP = 1024 * 1024;

/**
 * The first of the bytes in these ranges which are others in `b` than in `a`, of those that were seen to be before this ended; undefined
 * where all are the same. Of a range of kind `zero` only `b` is read, which has to be zero there.
 *
 * @throws as `pull`
 */
export async function findDifference(
  a: PullSource,
  b: PullSource,
  ranges: readonly Range[],
  options: CompareOptions,
): Promise<number | undefined> {
  const zeros = Buffer.alloc(STEP);
  const idle: Buffer[] = [];
  let differs: number | undefined;
  const compare = async (offset: number, expected: Buffer): Promise<void> => {
    if (differs !== undefined) return;
    const buffer = idle.pop() ?? Buffer.allocUnsafeSlow(STEP);
    const found = buffer.subarray(0, expected.length);
    await b.read(offset, found);
    if (!found.equals(expected)) differs ??= offset;
    idle.push(buffer);
  };
  await pull(
    a,
    ranges,
    {
      write: compare,
      zero: async (offset, length) => {
        for (let at = 0; at < length; at += STEP) {
          await compare(offset + at, zeros.subarray(0, Math.min(STEP, length - at)));
        }
      },
      flush: () => Promise.resolve(),
    },
    { ...options, pieceSize: STEP },
  );
  return differs;
}

import type { ByteRange } from './pieces.js';

/** Bytes: small, and 16 TiB of a disk take 32 MiB of bits. */
const UNIT = 64 * 1024;

/** Which parts of a disk somebody has touched, to the unit, each told once. */
export class TouchedRanges {
  readonly #size: number;
  /** A bit for each unit that was ever touched. */
  readonly #touched: Uint8Array;
  #waiting: { start: number; end: number }[] = [];

  /** @param size of the disk, in bytes */
  constructor(size: number) {
    this.#size = size;
    this.#touched = new Uint8Array(Math.ceil(Math.ceil(size / UNIT) / 8));
  }

  /** Beyond the end of the disk there is nothing, and an empty range touches nothing. */
  add({ start, end: asked }: ByteRange): void {
    const end = Math.min(asked, this.#size);
    if (end <= start) return;
    const last = Math.ceil(end / UNIT);
    for (let unit = Math.floor(start / UNIT); unit < last; unit += 1) {
      const [index, bit] = [unit >> 3, 1 << (unit & 7)];
      const had = this.#touched[index] ?? 0;
      if ((had & bit) !== 0) continue;
      this.#touched[index] = had | bit;
      const latest = this.#waiting.at(-1);
      if (latest?.end === unit * UNIT) latest.end += UNIT;
      else this.#waiting.push({ start: unit * UNIT, end: (unit + 1) * UNIT });
    }
  }

  /** What was touched since it was last asked, and never before; in order. */
  take(): readonly ByteRange[] {
    const ranges = this.#waiting.sort((a, b) => a.start - b.start);
    this.#waiting = [];
    return ranges;
  }
}

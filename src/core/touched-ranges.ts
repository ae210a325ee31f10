import type { ByteRange } from './pieces.js';

/** Bytes: small, and 16 TiB of a disk take 32 MiB of bits. */
const UNIT = 64 * 1024;

/** Which parts of a disk somebody has touched, to the unit, each told once. */
export class TouchedRanges {
  readonly #units: number;
  /** A bit for each unit that was ever touched. */
  readonly #touched: Uint8Array;
  #waiting: { start: number; end: number }[] = [];

  /** @param size of the disk, in bytes */
  constructor(size: number) {
    this.#units = Math.ceil(size / UNIT);
    this.#touched = new Uint8Array(Math.ceil(this.#units / 8));
  }

  /** Beyond the end of the disk there is nothing. */
  add({ start, end }: ByteRange): void {
    const last = Math.min(Math.ceil(end / UNIT), this.#units);
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

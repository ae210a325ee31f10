/** Scales of charts, and where their lines are drawn: pure numbers. Ticks are at equal distances, the first at the bottom. */
export interface Scale {
  /** From 0 to 1. */
  readonly at: (value: number) => number;
  readonly ticks: readonly number[];
}

const STEPS = [1, 2, 5, 10];
const BINARY_STEPS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];

/** From 0 to a round number at or above `most`, in at most `lines` steps. `base` 1024 is for bytes, 10 for all else. */
export function linearScale(
  most: number,
  { base, lines = 4 }: { readonly base: 10 | 1024; readonly lines?: number },
): Scale {
  const step = roundUp(Math.max(most, 1) / lines, base);
  const count = Math.max(1, Math.ceil(most / step));
  const end = step * count;
  return { at: (value) => value / end, ticks: Array.from({ length: count + 1 }, (_, index) => step * index) };
}

function roundUp(value: number, base: 10 | 1024): number {
  const unit = base ** Math.max(0, Math.floor(Math.log(value) / Math.log(base)));
  const steps = base === 10 ? STEPS : BINARY_STEPS;
  return unit * (steps.find((step) => step * unit >= value) ?? base);
}

/** By powers of `factor`, around all of `values`; what is less than `least` is drawn there. */
export function logScale(
  values: Iterable<number>,
  { factor, least }: { readonly factor: number; readonly least: number },
): Scale {
  const power = (value: number): number => Math.log(Math.max(value, least)) / Math.log(factor);
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    low = Math.min(low, power(value));
    high = Math.max(high, power(value));
  }
  if (low > high) [low, high] = [power(least), power(least)];
  // A power that is whole but for the last digit of its logarithm is whole.
  const from = Math.floor(low + 1e-9);
  const to = Math.max(from + 1, Math.ceil(high - 1e-9));
  return {
    at: (value) => (power(value) - from) / (to - from),
    ticks: Array.from({ length: to - from + 1 }, (_, index) => factor ** (from + index)),
  };
}

/** Milliseconds; the ticks are the ends and what lies at equal distances between. */
export function timeScale(from: number, to: number, steps = 4): Scale {
  const span = Math.max(to - from, 1);
  return {
    at: (value) => (value - from) / span,
    ticks: Array.from({ length: steps + 1 }, (_, index) => from + (span * index) / steps),
  };
}

/**
 * The limits of the tests are what a quiet machine of two cores needs, with a margin. They hold on one that is so many times as busy. A
 * limit says when to give up and nothing else: a test that passes is none the slower for it. Where something has to come *before* a limit of the
 * program would have brought it about, the test gives the program a limit that is longer than this.
 */
const BUSY = 4;

export function patient(ms: number): number {
  return BUSY * ms;
}

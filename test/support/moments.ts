/** What takes long is done more often where QMPBACKUP_TEST_LONG is set. */
export const IS_LONG = process.env.QMPBACKUP_TEST_LONG === '1';

/** How often that is killed, at random, what takes a second to run. */
export const MOMENTS = IS_LONG ? 20 : 8;

/** How often that is killed what takes seconds to run. */
export const MOMENTS_OF_LONG = IS_LONG ? 20 : 5;

/** What each of several tests could go through: its share, so that together they go through all; all of it where there is time. */
export function shareOf<T>(steps: readonly T[], test: number, tests: number): readonly T[] {
  return IS_LONG ? steps : steps.filter((_, index) => index % tests === test);
}

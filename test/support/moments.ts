/** What takes long is done more often where QMPBACKUP_TEST_LONG is set. */
export const IS_LONG = process.env.QMPBACKUP_TEST_LONG === '1';

/** How often that is killed what takes seconds to run. */
export const MOMENTS_OF_LONG = IS_LONG ? 20 : 5;

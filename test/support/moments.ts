/** How often that is killed what takes seconds to run: 20 times where QMPBACKUP_TEST_LONG is set. */
export const MOMENTS_OF_LONG = process.env.QMPBACKUP_TEST_LONG === '1' ? 20 : 5;

/**
 * As Promise.all, but waits for every one also after one has failed, so that nothing goes on behind the back of the undo;
 * then it throws the first failure.
 */
export async function allOf<const T extends readonly unknown[]>(
  steps: T,
): Promise<{ -readonly [K in keyof T]: Awaited<T[K]> }> {
  const failures: unknown[] = [];
  const results = await Promise.all(
    steps.map(async (step) => {
      try {
        return await step;
      } catch (error) {
        failures.push(error);
        return undefined;
      }
    }),
  );
  if (failures.length > 0) throw failures[0];
  return results as { -readonly [K in keyof T]: Awaited<T[K]> };
}

/** For steps of `allOf` that would go on for long: the first that fails aborts the signal of all. */
export function endingTogether(outer: AbortSignal): {
  readonly signal: AbortSignal;
  readonly step: <T>(step: Promise<T>) => Promise<T>;
} {
  const failed = new AbortController();
  return {
    signal: AbortSignal.any([outer, failed.signal]),
    step: async (step) => {
      try {
        return await step;
      } catch (error) {
        failed.abort(error);
        throw error;
      }
    },
  };
}

/** One step for all disks at a time. */
export function eachDisk<T, R>(disks: readonly T[], step: (disk: T) => Promise<R>): Promise<R[]> {
  return allOf(disks.map(step));
}

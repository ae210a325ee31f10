/**
 * One step for all disks at a time. Unlike Promise.all it waits for every disk also after one has failed, so that no
 * step goes on behind the back of the undo; then it throws the first failure.
 */
export async function eachDisk<T, R>(disks: readonly T[], step: (disk: T) => Promise<R>): Promise<R[]> {
  const failures: unknown[] = [];
  const results = await Promise.all(
    disks.map((disk) =>
      step(disk).catch((error: unknown) => {
        failures.push(error);
      }),
    ),
  );
  if (failures.length > 0) throw failures[0];
  return results as R[];
}

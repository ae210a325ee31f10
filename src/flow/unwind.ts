/** Clean-up in reverse order of set-up, by one mechanism, whether a run ends by success, error or signal. */
export class Unwind {
  readonly #steps: (() => Promise<unknown>)[] = [];
  #within: (step: Promise<unknown>) => Promise<unknown> = (step) => step;

  defer(step: () => Promise<unknown>): void {
    this.#steps.push(step);
  }

  /** Waits for each step only as long as `within` does. */
  waitWithin(within: (step: Promise<unknown>) => Promise<unknown>): void {
    this.#within = within;
  }

  /** Runs every step, also after one failed; then throws the first failure. */
  async run(): Promise<void> {
    const failures: unknown[] = [];
    for (let step = this.#steps.pop(); step; step = this.#steps.pop()) {
      await this.#within(step()).catch((error: unknown) => failures.push(error));
    }
    if (failures.length > 0) throw failures[0];
  }
}

/**
 * Runs `body` with a fresh Unwind and unwinds it afterwards. A failure of the body is what the caller hears of, not a
 * failure of the clean-up after it.
 */
export async function unwinding<T>(body: (unwind: Unwind) => Promise<T>): Promise<T> {
  const unwind = new Unwind();
  const outcome = await body(unwind).then(
    (value) => ({ value }),
    (error: unknown) => ({ error }),
  );
  const cleanUp = await unwind.run().then(
    () => undefined,
    (error: unknown) => ({ error }),
  );
  if ('error' in outcome) throw outcome.error;
  if (cleanUp) throw cleanUp.error;
  return outcome.value;
}

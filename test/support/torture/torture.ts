import fc from 'fast-check';
import { runSequence, type SequenceOptions, type SequenceReport } from './sequence.js';
import { sequence, sequenceInWords } from './steps.js';

/** One seed is one sequence, the same at every call. */
export type Outcome =
  | { readonly ok: true; readonly seed: number; readonly report: SequenceReport }
  /** `words`: the sequence, and what was found, for people. */
  | { readonly ok: false; readonly seed: number; readonly words: string };

export interface TortureOptions extends SequenceOptions {
  /** Milliseconds for looking for a shorter sequence that fails too; 0: none. */
  readonly shrinkMs?: number;
}

export async function torture(seed: number, { shrinkMs = 0, ...options }: TortureOptions): Promise<Outcome> {
  let report: SequenceReport | undefined;
  const property = fc.asyncProperty(sequence, async (drawn) => {
    report = await runSequence(drawn, options);
  });
  const details = await fc.check(property, {
    ...{ seed, numRuns: 1, unbiased: true, endOnFailure: shrinkMs === 0 },
    ...(shrinkMs > 0 ? { interruptAfterTimeLimit: shrinkMs } : {}),
  });
  if (!details.failed && report) return { ok: true, seed, report };
  const [drawn] = details.counterexample ?? [];
  const why = details.errorInstance instanceof Error ? details.errorInstance.message : String(details.errorInstance);
  return { ok: false, seed, words: `${drawn ? `${sequenceInWords(drawn)}\n` : ''}${why}` };
}

import fc from 'fast-check';
import { type DomainSequenceOptions, runDomainSequence } from './domain-sequence.js';
import { domainSequence, domainSequenceInWords } from './domain-steps.js';
import { runSequence, type SequenceOptions, type SequenceReport } from './sequence.js';
import { sequence, sequenceInWords } from './steps.js';

/** One seed is one sequence, the same at every call. */
export type Outcome =
  | { readonly ok: true; readonly seed: number; readonly report: SequenceReport }
  /** `words`: the sequence, and what was found, for people. */
  | { readonly ok: false; readonly seed: number; readonly words: string };

interface Shrinking {
  /** Milliseconds for looking for a shorter sequence that fails too; 0: none. */
  readonly shrinkMs?: number;
}

export type TortureOptions = SequenceOptions & Shrinking;

/** Of a VM that is reached by its monitor. */
export function torture(seed: number, options: TortureOptions): Promise<Outcome> {
  return draw(seed, options, sequence, sequenceInWords, (drawn) => runSequence(drawn, options));
}

/** Of a domain of `lab`. */
export function tortureDomain(seed: number, options: DomainSequenceOptions & Shrinking): Promise<Outcome> {
  return draw(seed, options, domainSequence, domainSequenceInWords, (drawn) => runDomainSequence(drawn, options));
}

async function draw<T>(
  seed: number,
  { shrinkMs = 0 }: Shrinking,
  sequences: fc.Arbitrary<T>,
  inWords: (drawn: T) => string,
  live: (drawn: T) => Promise<SequenceReport>,
): Promise<Outcome> {
  let report: SequenceReport | undefined;
  const property = fc.asyncProperty(sequences, async (drawn) => {
    report = await live(drawn);
  });
  const details = await fc.check(property, {
    ...{ seed, numRuns: 1, unbiased: true, endOnFailure: shrinkMs === 0 },
    ...(shrinkMs > 0 ? { interruptAfterTimeLimit: shrinkMs } : {}),
  });
  if (!details.failed && report) return { ok: true, seed, report };
  const [drawn] = details.counterexample ?? [];
  const why = details.errorInstance instanceof Error ? details.errorInstance.message : String(details.errorInstance);
  return { ok: false, seed, words: `${drawn === undefined ? '' : `${inWords(drawn)}\n`}${why}` };
}

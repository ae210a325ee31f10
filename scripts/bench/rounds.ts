/** All measures of a case in turn, round after round, each time another one first: what changes meanwhile changes for all. */
import type { Measure } from './case.js';
import type { Sampled } from './results.js';

export interface RoundsOptions {
  readonly rounds: number;
  /** Before each turn: what the one before it has left to be written is not on its bill. */
  readonly settle: () => Promise<void>;
}

export async function takeTurns(
  measures: readonly Measure[],
  { rounds, settle }: RoundsOptions,
): Promise<readonly Sampled[]> {
  const samples = measures.map((): number[] => []);
  for (let round = 0; round < rounds; round += 1) {
    for (let turn = 0; turn < measures.length; turn += 1) {
      const index = (round + turn) % measures.length;
      const measure = measures[index];
      if (!measure) continue;
      await settle();
      samples[index]?.push(await measure.take());
    }
  }
  return measures.map(({ name, role }, index) => ({ name, role, samples: samples[index] ?? [] }));
}

/** Whether merging points away takes longer than in proportion to what is moved: 700 of 720 points against 300 of 320; 100 beside. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { makeLongTarget } from '../../../test/support/long-chain.js';
import { against, beside, type Case, MiB, timed } from '../case.js';
import { merging, onCopy } from '../merge-target.js';
import { runProgram } from '../programs.js';

const KEPT = 20;
const [LONG, MIDDLE, SHORT] = [700, 300, 100] as const;

const PRUNE = (target: string): readonly string[] => [
  ...['prune', '--target', target, '--keep-last', String(KEPT), '--consolidate'],
];

export const prune700: Case = {
  name: `prune-${LONG}`,
  idea: `prune --consolidate of ${LONG} points of a chain of ${LONG + KEPT}, each as large, against ${MIDDLE}`,
  unit: 'ms',
  // In proportion, and a tenth more.
  limit: { by: 'times', atMost: (1.1 * LONG) / MIDDLE },
  bytes: () => 1000 * MiB,
  unasked: ['memory'],
  prepare: async (bench) => {
    const targetOf = async (points: number): Promise<string> => {
      const root = join(bench.dir, String(points));
      await mkdir(root);
      await makeLongTarget(root, points + KEPT, { writtenEvery: 1 });
      return join(root, 'target');
    };
    const [program] = bench.programs;
    if (!program) throw new Error('there is no program to measure');
    const [long, middle, short] = [await targetOf(LONG), await targetOf(MIDDLE), await targetOf(SHORT)];
    const pruned = (target: string) => () =>
      onCopy(target, bench.dir, (copy) => timed(() => runProgram(program, PRUNE(copy))));
    return [
      ...(await merging(bench, { target: long, copies: bench.dir }, PRUNE)),
      against(`${MIDDLE} points`, pruned(middle)),
      beside(`${SHORT} points`, pruned(short)),
    ];
  },
};

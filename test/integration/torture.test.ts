import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { ensureBuilt } from '../support/built.js';
import { PROGRAM } from '../support/cli.js';
import { withTemporaryDir } from '../support/lab/programs.js';
import { patient } from '../support/patience.js';
import { KNOWN_BUGS, makeMutant } from '../support/torture/mutant.js';
import { runSequence } from '../support/torture/sequence.js';
import type { RunStep } from '../support/torture/steps.js';
import { torture } from '../support/torture/torture.js';

// The torture is worth what it finds: bugs that other tools have, each put into a copy of this one. Any seed does
// it (npm run torture -- --runs 50 --bug NAME); those here begin shortly before a sequence that shows the bug.

const MiB = 1024 * 1024;
const WITHIN = 50;
const FIRST_SEEDS: Readonly<Record<string, number>> = {
  'clears the bitmap at the start': 5000,
  'takes the recorded node instead of the top one': 4000,
  'prunes what a kept point builds on': 1004,
  'swaps a new FULL in before it is proved': 1023,
};
const OTHER_FIRST_SEED = 1000;

beforeAll(() => ensureBuilt());

describe('the torture', () => {
  it.each(KNOWN_BUGS)('finds a tool that $name', { timeout: patient(600_000) }, async (bug) => {
    await withTemporaryDir(async (dir) => {
      const program = await makeMutant(bug, join(dir, 'mutant'));
      const first = FIRST_SEEDS[bug.name] ?? OTHER_FIRST_SEED;
      for (let seed = first; seed < first + WITHIN; seed += 1) {
        const outcome = await torture(seed, { program, dir });
        if (!outcome.ok) return;
      }
      expect.fail(`not found in ${WITHIN} sequences from seed ${first}`);
    });
  });

  it.each([...Object.values(FIRST_SEEDS), OTHER_FIRST_SEED])('finds nothing in this one, seed %i', async (seed) => {
    const outcome = await torture(seed, { program: PROGRAM });
    expect(outcome.ok || outcome.words).toBe(true);
  });

  it('knows of a write between any two messages whether it is in the point', async () => {
    const runBesideWrite = (n: number): RunStep => ({
      ...{ kind: 'run', target: 0, level: 'auto', include: null, slow: false, compress: false, fleece: 'always' },
      fault: {
        ...{ kind: 'write', at: { from: 'start', n, when: 'after' } },
        writes: [{ kind: 'write', disk: 0, at: 203, length: 851_968, pattern: n }],
      },
    });
    const report = await runSequence(
      {
        vm: { disks: [{ kind: 'drive', size: 4 * MiB }], named: true, running: true, foreignBitmap: false },
        steps: Array.from({ length: 30 }, (_, index) => runBesideWrite(index + 25)),
        restore: 0,
      },
      { program: PROGRAM },
    );
    expect(report.faults).toBe(30);
  });
});

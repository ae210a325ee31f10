import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { ensureBuilt } from '../support/built.js';
import { PROGRAM } from '../support/cli.js';
import { withTemporaryDir } from '../support/lab/programs.js';
import { patient } from '../support/patience.js';
import { KNOWN_BUGS_OF_DOMAINS, makeMutant } from '../support/torture/mutant.js';
import { tortureDomain } from '../support/torture/torture.js';
import { useLibvirt } from '../support/use-libvirt.js';

// As torture.test.ts, for domains of libvirt: npm run torture -- --domain --runs 50 --bug NAME

const WITHIN = 50;
/** Shortly before a sequence that shows the bug. */
const FIRST_SEEDS: Readonly<Record<string, number>> = {
  'takes the bitmap of every checkpoint for whole': 7009,
  'redefines checkpoints without validation': 7008,
  'does not write the zeros of an increment': 3100,
};

const lab = useLibvirt();
beforeAll(() => ensureBuilt());

describe('the torture of domains', () => {
  it.each(KNOWN_BUGS_OF_DOMAINS)('finds a tool that $name', { timeout: patient(600_000) }, async (bug) => {
    await withTemporaryDir(async (dir) => {
      const program = await makeMutant(bug, join(dir, 'mutant'));
      const first = FIRST_SEEDS[bug.name]!;
      for (let seed = first; seed < first + WITHIN; seed += 1) {
        const outcome = await tortureDomain(seed, { program, lab });
        if (!outcome.ok) return;
      }
      expect.fail(`not found in ${WITHIN} sequences from seed ${first}`);
    });
  });

  it.each(Object.values(FIRST_SEEDS))('finds nothing in this one, seed %i', async (seed) => {
    const outcome = await tortureDomain(seed, { program: PROGRAM, lab });
    expect(outcome.ok || outcome.words).toBe(true);
  });
});

import { expect, it } from 'vitest';
import { patient } from '../support/patience.js';
import { labDir } from '../support/scenario.js';
import { growth, soak } from '../support/soak.js';

it(
  '100 runs in a row leave nothing behind, name by name and byte by byte, and QEMU does not grow',
  async () => {
    const result = await soak({ dir: await labDir(), runs: 100 });
    const { samples } = result;
    expect(samples).toHaveLength(100);
    expect(growth(result)).toEqual([]);
    // Catalog with its two copies, two folders, and two files more with each run: nothing is made beside them.
    expect(samples.map(({ files }) => files)).toEqual(samples.map(({ run }) => 3 + 2 * run + Math.min(run, 2)));
  },
  patient(600_000),
);

it('sees what grows', () => {
  const flat = { openFiles: 15, rssKiB: 40_000, transactionMs: 12, runMs: 400, files: 3 };
  const samples = Array.from({ length: 100 }, (_, index) => ({ run: index + 1, ...flat }));
  const pair = { short: { run: 5, ...flat }, long: { run: 101, ...flat } };
  expect(growth({ samples, pairs: [pair] })).toEqual([]);
  const leaking = samples.map((sample) => ({
    ...sample,
    openFiles: 15 + Math.floor(sample.run / 50),
    rssKiB: 40_000 + 200 * sample.run,
  }));
  const slower = { ...pair, long: { ...pair.long, transactionMs: 15, runMs: 490 } };
  expect(growth({ samples: leaking, pairs: [slower] })).toHaveLength(4);
  expect(growth({ samples: leaking, pairs: [] })).toHaveLength(2);
});

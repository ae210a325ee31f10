import { expect, it } from 'vitest';
import * as library from '../../src/index.js';
import { patient } from '../support/patience.js';
import { RETENTION_GROWTH, retentionGrowth, soakRetention } from '../support/retention-soak.js';
import { labDir } from '../support/scenario.js';

it(
  'days of backups, each followed by a prune that merges, leave a target that does not grow',
  async () => {
    const soaked = await soakRetention({
      ...{ library, dir: await labDir(), runs: 32, hours: 3, rules: { keepHourly: 4, keepDaily: 2 } },
    });
    const { samples } = soaked;
    expect(samples).toHaveLength(32);
    // Here the rules have all their points at run 20.
    for (const { what, before, after } of retentionGrowth(soaked, { early: 20, day: 8 }))
      expect(after / before, what).toBeLessThanOrEqual(RETENTION_GROWTH);
    // Of the last four hours, and of yesterday.
    expect(new Set(samples.slice(-8).map(({ points }) => points))).toEqual(new Set([4, 5]));
    // Of each point two images with their lists of pieces; two folders, the catalog and its copies.
    for (const { points, files } of samples) expect(files).toBeLessThanOrEqual(4 * points + 5);
  },
  patient(600_000),
);

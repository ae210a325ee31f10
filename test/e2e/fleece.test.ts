import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { describe as suite, expect, it } from 'vitest';
import { MiB } from '../support/builders.js';
import { expectCli } from '../support/cli.js';
import { write } from '../support/lab/guest-writes.js';
import { scenario } from '../support/scenario.js';

suite('fleecing', () => {
  it('makes the same chain as without, and leaves nothing behind', async () => {
    const lab = await scenario([
      { id: 'd1' },
      { id: 'd2', via: 'blockdev' },
      { id: 'd3', format: 'raw', size: 32 * MiB },
    ]);
    for (const id of ['d1', 'd2', 'd3']) await write(lab.vm, id, { offset: 0, length: 8 * MiB, pattern: 1 });
    await lab.backup('full', '--fleece', 'always');
    await lab.expectChainEqualsDisks();
    for (let round = 2; round < 5; round += 1) {
      for (const id of ['d1', 'd2', 'd3']) {
        await write(lab.vm, id, { offset: round * MiB, length: MiB, pattern: round });
      }
      const { point } = await lab.backup('auto', '--fleece', 'always', '--verify');
      expect(point.disks.map(({ level }) => level)).toEqual(['inc', 'inc', 'inc']);
      await lab.expectChainEqualsDisks();
      await lab.expectNothingLeft(2);
    }
    await expectNoScratch(lab.dir);
  });
});

async function expectNoScratch(dir: string): Promise<void> {
  const found = (await readdir(dir, { recursive: true })).filter((name) => name.includes('.scratch'));
  expect(found).toEqual([]);
}
void join;
void stat;
void expectCli;

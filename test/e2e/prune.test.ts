import { cp, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { photograph } from '../support/chains.js';
import { expectCli } from '../support/cli.js';
import { type CrashPoint, crashCli } from '../support/crash-point.js';
import { scenario, type Scenario, writeBoth } from '../support/scenario.js';
import { imagesIn, straysOf } from '../support/target-files.js';

/** Two chains of a VM that runs. */
async function twoChains(): Promise<Scenario> {
  const lab = await scenario();
  for (const [index, level] of ['full', 'inc', 'inc', 'full', 'inc'].entries()) {
    await writeBoth(lab, index, 0x11 * (index + 1), 5);
    await lab.backup(level);
  }
  return lab;
}

const LAST = ['--keep-last', '1'];

interface Answer {
  readonly histories: readonly {
    readonly points: readonly { readonly kept: boolean; readonly reasons: readonly { readonly code: string }[] }[];
    readonly removed: readonly string[];
  }[];
}

describe('prune', () => {
  it('drops a chain, and the VM goes on with its increments and has no bitmap of it', async () => {
    const lab = await twoChains();
    const dry = await expectCli(0, ['prune', '-t', lab.target, ...LAST, '--dry-run']);
    expect(dry.stdout).toMatch(/drop +no rule keeps it\n/);
    expect(dry.stdout).toMatch(
      /keep +last 1, the next increment builds on it|keep +the next increment builds on it, last 1/,
    );
    expect(dry.stdout).toMatch(/2 kept, 3 would go, [\d.]+ MiB would be free/);
    const pruned = (await expectCli(0, ['--json', 'prune', '-t', lab.target, ...LAST])).json<Answer>();
    expect(pruned.histories[0]?.points.map(({ kept }) => kept)).toEqual([false, false, false, true, true]);
    expect(await imagesIn(join(lab.target, 'd1'))).toHaveLength(2);
    await lab.expectChainEqualsDisks();

    await writeBoth(lab, 20, 0x77);
    const { point } = await lab.backup('inc');
    expect(point.disks.map(({ level }) => level)).toEqual(['inc', 'inc']);
    await lab.expectChainEqualsDisks();
    await lab.expectNothingLeft(2);
    // Without a rule nothing is dropped, and what is wrong is said.
    expect((await expectCli(2, ['prune', '-t', lab.target])).stderr).toContain('told nothing to keep');
    expect((await expectCli(2, ['prune', '-t', lab.target, '--keep-daily', 'x'])).stderr).toContain('whole number');
    expect((await expectCli(3, ['prune', '-t', lab.target, ...LAST, '--keep-free', '4096T'])).stdout).toContain(
      'less is free',
    );
    await expectCli(10, ['prune', '-t', join(lab.dir, 'none'), ...LAST]);
  });

  const STEPS: readonly CrashPoint[] = [
    { when: 'before', call: 'rename', matches: /catalog\.json$/ },
    { when: 'after', call: 'rename', matches: /catalog\.json$/ },
    { when: 'after', call: 'rename', matches: /catalog-copy-1\.json\n.*copy-2/ },
    { when: 'after', call: 'rename', matches: /tmp\n.*catalog-copy-1\.json$/ },
    { when: 'after', call: 'rename', matches: /tmp\n.*catalog-copy-1\.json$/, nth: 2 },
    { when: 'after', call: 'rm', matches: /d1\/FULL-\d+\.qcow2$/ },
    { when: 'after', call: 'rm', matches: /d1\/FULL-\d+\.qcow2\.pieces$/ },
    { when: 'after', call: 'rm', matches: /d2\/INC-\d+\.qcow2$/, nth: 2 },
    { when: 'before', call: 'rename', matches: /catalog\.json$/, nth: 2 },
    { when: 'after', call: 'rename', matches: /catalog\.json$/, nth: 2 },
  ];

  it('that is killed at any step leaves points that can be restored, and the next run ends where one would have', async () => {
    const lab = await twoChains();
    const whole = join(lab.dir, 'whole');
    await cp(lab.target, whole, { recursive: true, preserveTimestamps: true });
    await expectCli(0, ['prune', '-t', whole, ...LAST]);
    const images = async (target: string): Promise<Record<string, string>> =>
      Object.fromEntries(Object.entries(await photograph(target)).filter(([file]) => /qcow2|catalog\.json/.test(file)));
    const expected = Object.keys(await images(whole));
    for (const [index, step] of STEPS.entries()) {
      const target = join(lab.dir, `killed-${index}`);
      await cp(lab.target, target, { recursive: true, preserveTimestamps: true });
      await crashCli(step, ['prune', '-t', target, ...LAST]);
      await expectCli(0, ['verify', '-t', target, '--read-data']);
      await lab.expectChainEqualsDisks(target);
      await expectCli(0, ['prune', '-t', target, ...LAST]);
      expect(Object.keys(await images(target)), `${index}`).toEqual(expected);
      expect(straysOf(await readdir(target, { recursive: true }))).toEqual([]);
    }
    // A backup tidies up as well, and goes on with the chain.
    await crashCli(STEPS[5]!, ['prune', '-t', lab.target, ...LAST]);
    await writeBoth(lab, 20, 0x77);
    expect((await lab.backup('inc')).point.disks.map(({ level }) => level)).toEqual(['inc', 'inc']);
    expect(await imagesIn(join(lab.target, 'd1'))).toHaveLength(3);
    await lab.expectChainEqualsDisks();
    await lab.expectNothingLeft(2);
  });
});

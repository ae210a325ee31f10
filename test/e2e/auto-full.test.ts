import { describe, expect, it } from 'vitest';
import { MiB } from '../support/builders.js';
import { expectCli } from '../support/cli.js';
import { write } from '../support/lab/guest-writes.js';
import { mountSmall } from '../support/mounts.js';
import { expectRefused, leavingNoTrace } from '../support/refusal.js';
import { type BackupAnswer, scenario, textsOf, writeBoth } from '../support/scenario.js';

const reasonsOf = ({ point }: BackupAnswer): readonly (readonly [string, string])[] =>
  point.disks.map(({ level, reason }) => [level, reason]);

describe('--auto-full-after', () => {
  it('begins a new chain of all disks when the old one is long enough, and nothing of that is left in the VM', async () => {
    const lab = await scenario();
    const backUp = (...more: string[]) => lab.backup('auto', '--auto-full-after', '3', ...more);
    const chains: string[] = [];
    for (const [round, level] of ['full', 'inc', 'inc', 'full', 'inc'].entries()) {
      await writeBoth(lab, round, 0x11 * (round + 1));
      const { point } = await backUp();
      expect(point).toMatchObject({ level, number: round % 3 });
      chains.push(point.chain);
      await lab.expectChainEqualsDisks();
      await lab.expectNothingLeft(2);
    }
    expect(new Set(chains.slice(0, 3)).size).toBe(1);
    expect(chains[3]).not.toBe(chains[0]);
    expect(chains[4]).toBe(chains[3]);

    // A disk that is backed up by itself begins the new chain, and the other one follows there.
    await writeBoth(lab, 6, 0x66);
    await backUp();
    const first = await backUp('--include', 'd1');
    expect(first.point).toMatchObject({ level: 'full', number: 0 });
    expect(reasonsOf(first)).toEqual([['full', 'the chain has 3 points']]);
    await writeBoth(lab, 7, 0x77);
    const both = await backUp();
    expect(both.point).toMatchObject({ chain: first.point.chain, number: 1 });
    expect(reasonsOf(both).map(([level]) => level)).toEqual(['inc', 'full']);
    await lab.expectChainEqualsDisks();
    await lab.expectNothingLeft(2);
  });

  it('counts the bytes that the increments take on disk, and is told by a dry run', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    const limits = ['--auto-full-after', '1000d', '--auto-full-after', '150%'];
    await write(lab.vm, 'd1', { offset: 0, length: 4 * MiB, pattern: 0x11 });
    await lab.backup('auto', ...limits);
    for (const pattern of [0x12, 0x13]) {
      await write(lab.vm, 'd1', { offset: 0, length: 4 * MiB, pattern });
      expect((await lab.backup('auto', ...limits)).point.level).toBe('inc');
    }
    const args = ['--socket', lab.vm.socket, 'backup', '--target', lab.target];
    const words = /FULL.*the increments take (19\d|20\d) % of the FULL/;
    const dry = await expectCli(0, [...args, ...limits, '--dry-run']);
    expect(dry.stdout + dry.stderr).toMatch(words);
    expect(reasonsOf(await lab.backup('auto', ...limits))).toEqual([
      ['full', expect.stringMatching(/^the increments/)],
    ]);
    await lab.expectChainEqualsDisks();

    expect((await expectCli(2, [...args, '--auto-full-after', '0%'])).stderr).toContain('such as 150%');
    expect((await expectCli(2, [...args, ...limits, '--level', 'inc'])).stderr).toContain('goes with --level auto');
  });

  it('waits where there is no space for the FULL, and goes on with an increment that has it', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    const target = await mountSmall(lab.target, 96 * MiB);
    const limits = ['--auto-full-after', '2', '--reserve', '4M'];
    await write(lab.vm, 'd1', { offset: 0, length: 40 * MiB, pattern: 0x11 });
    await lab.backup('auto', ...limits);
    await write(lab.vm, 'd1', { offset: 0, length: 4 * MiB, pattern: 0x12 });
    await lab.backup('auto', ...limits);
    await target.fillBut(24 * MiB);

    const args = ['--socket', lab.vm.socket, 'backup', '--target', lab.target, ...limits];
    const words =
      /a FULL is due \(the chain has 2 points\) and there is too little space for it: it can need 40\.\d MiB, 2\d\.\d MiB are free and 4\.0 MiB of them stay in reserve\. The chain goes on/;
    await write(lab.vm, 'd1', { offset: 8 * MiB, length: 4 * MiB, pattern: 0x13 });
    expect((await expectCli(0, [...args, '--dry-run'])).stderr).toMatch(words);
    const third = await lab.backup('auto', ...limits);
    expect(third.point).toMatchObject({ level: 'inc', number: 2 });
    expect(third.warnings.map(({ code }) => code)).toEqual(['full-postponed']);
    expect(textsOf(third.warnings).join()).toMatch(words);
    await lab.expectChainEqualsDisks();
    await lab.expectNothingLeft(2);
    await expectCli(5, [...args, '--strict', '--dry-run']);

    // No space for the increment either, or none to be had: the FULL is refused as it would have been.
    await write(lab.vm, 'd1', { offset: 12 * MiB, length: 24 * MiB, pattern: 0x14 });
    await leavingNoTrace(lab, () => expectRefused(13, args, /the backup can need 40\.\d MiB/));
    for (const name of Object.values(await lab.bitmaps()).flat())
      await lab.vm.control.execute('block-dirty-bitmap-remove', { node: 'd1', name });
    await expectRefused(13, args, /the backup can need 40\.\d MiB/);

    await target.empty();
    const fourth = await lab.backup('auto', ...limits);
    expect(fourth.point).toMatchObject({ level: 'full', number: 0 });
    expect(fourth.warnings).toEqual([]);
    await lab.expectChainEqualsDisks();
  });
});

import { existsSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { expectCli } from '../support/cli.js';
import { levelsOf } from '../support/comparison.js';
import { type DomainScenario, domainScenario, domainWithFull, writeBothDisks } from '../support/domain-scenario.js';
import { discard, write, writeZeroes } from '../support/lab/guest-writes.js';
import { useLibvirt } from '../support/use-libvirt.js';

const MiB = 1024 * 1024;

const lab = useLibvirt();

describe('a running domain', () => {
  it('goes into a chain of FULL and INC that equals the disks at each point', async () => {
    const scenario = await domainWithFull(lab);
    await scenario.expectChainEqualsDisks();
    for (const round of [1, 2, 3]) {
      await write(scenario.domain, 'vda', { offset: round * MiB, length: MiB, pattern: 0x20 + round });
      await write(scenario.domain, 'vdb', { offset: 32 * MiB + round * 4096, length: 4096, pattern: 0x30 + round });
      const { point } = await scenario.backup('auto');
      expect(point).toMatchObject({ number: round, level: 'inc', disks: [{ changed: MiB }, { changed: 65536 }] });
      await scenario.expectChainEqualsDisks();
      await scenario.expectNothingLeft(2);
    }
  });

  it('zeroed and discarded areas between points restore as zeros', async () => {
    const scenario = await domainWithFull(lab);
    await writeZeroes(scenario.domain, 'vda', { offset: MiB, length: 2 * MiB });
    await discard(scenario.domain, 'vda', { offset: 4 * MiB, length: MiB });
    await writeZeroes(scenario.domain, 'vdb', { offset: MiB + 4096, length: 4096 });
    expect((await scenario.backup('inc')).point.level).toBe('inc');
    await scenario.expectChainEqualsDisks();
  });

  it('a copy leaves checkpoints and chain alone; a diff copies what changed since the FULL', async () => {
    const scenario = await domainWithFull(lab);
    const before = await scenario.checkpoints();
    expect((await scenario.backup('copy')).point.level).toBe('copy');
    expect(await scenario.checkpoints()).toEqual(before);
    await writeBothDisks(scenario, 20, 0x41);
    await scenario.backup('inc');
    await writeBothDisks(scenario, 22, 0x42);
    const { point } = await scenario.backup('diff');
    expect(point.disks.map(({ level, changed }) => [level, changed])).toEqual([
      ['diff', 2 * MiB],
      ['diff', 2 * MiB],
    ]);
    await scenario.expectChainEqualsDisks();
    await scenario.expectNothingLeft(2);
  });

  it('goes into two targets in turn, each with a chain of its own', async () => {
    const scenario = await domainWithFull(lab);
    const other = `${scenario.target}-other`;
    const elsewhere = ['--target', other];
    await writeBothDisks(scenario, 20, 0x41);
    expect((await scenario.backup('auto', ...elsewhere)).point.level).toBe('full');
    for (const round of [1, 2]) {
      await writeBothDisks(scenario, 20 + 2 * round, 0x50 + round);
      expect((await scenario.backup('inc')).point.number).toBe(round);
      await writeBothDisks(scenario, 21 + 2 * round, 0x60 + round);
      const { point } = await scenario.backup('inc', ...elsewhere);
      expect(point.disks.map(({ changed }) => changed)).toEqual([2 * MiB, 2 * MiB]);
    }
    await scenario.expectChainEqualsDisks(other);
    await scenario.backup('inc');
    await scenario.expectChainEqualsDisks();
    await scenario.expectNothingLeft(4);
  });

  it('--verify compares each point with the frozen instant; --compress takes less space', async () => {
    const scenario = await domainWithFull(lab);
    await writeBothDisks(scenario, 20, 0x41);
    const { stderr } = await expectCli(0, [
      ...[...scenario.vm, 'backup', '--level', 'inc', '--verify', '--compress', '--target', scenario.target],
    ]);
    expect(stderr).toContain('comparing all of it');
    await scenario.expectChainEqualsDisks();
    await scenario.backup('full', '--verify=sample', '--compress');
    await scenario.expectChainEqualsDisks();
    await scenario.expectNothingLeft(2);
  });

  it('--dry-run says what would be done and changes nothing', async () => {
    const scenario = await domainWithFull(lab);
    const catalog = await readFile(join(scenario.target, 'catalog.json'), 'utf8');
    const checkpoints = await scenario.checkpoints();
    const { stdout } = await expectCli(0, [
      ...scenario.vm,
      ...['backup', '--level', 'auto', '--dry-run', '--target', scenario.target],
    ]);
    expect(stdout).toContain('INC');
    const due = await expectCli(0, [
      ...scenario.vm,
      ...['backup', '--auto-full-after', '1', '--dry-run', '--target', scenario.target],
    ]);
    expect(due.stdout + due.stderr).toMatch(/vda.* FULL.*the chain has 1 point/);
    expect(await readFile(join(scenario.target, 'catalog.json'), 'utf8')).toBe(catalog);
    expect(await scenario.checkpoints()).toEqual(checkpoints);
  });
});

describe('what a domain cannot do', () => {
  const refused = async (code: number, args: readonly string[]): Promise<string> => {
    const target = join(lab.dir, 'never-made');
    const { stderr } = await expectCli(code, [...args, '--target', target]);
    expect(existsSync(target)).toBe(false);
    return stderr;
  };

  it('says so before anything is changed: unknown, without scratch images, no libvirt', async () => {
    const { vm } = await domainScenario(lab);
    expect(await refused(2, [...vm, 'backup', '--level', 'full', '--fleece', 'never'])).toContain('--fleece-dir');
    const unknown = ['--connect', lab.uri, '--domain', 'no such thing', 'backup', '--level', 'full'];
    expect(await refused(12, unknown)).toContain('no such thing');
    const nowhere = ['--connect', 'qemu+unix:///system?socket=/nowhere', '--domain', 'a', 'backup', '--level', 'full'];
    expect(await refused(12, nowhere)).toContain('/nowhere');
    expect(await refused(2, ['--socket', '/run/x', ...vm, 'backup', '--level', 'full'])).toContain('--domain');
  });

  it('the monitor of a domain is refused, with the option to use', async () => {
    const { domain, vm } = await domainScenario(lab);
    const id = (await lab.virsh(['domid', domain.uuid])).stdout.trim();
    const monitor = join(lab.dir, 'var/lib/libvirt/qemu', `domain-${id}-${domain.name}`, 'monitor.sock');
    expect(await refused(13, ['--socket', monitor, 'backup', '--level', 'full'])).toContain(`--domain ${domain.name}`);
    await expectCli(13, ['--socket', monitor, 'info', '--show', 'blockdev']);
    await expectCli(0, [...vm, 'backup', '--level', 'full', '--target', join(lab.dir, 'by-name')]);
  });
});

describe('a domain that was away', () => {
  it('goes on incrementally after it was destroyed and started', async () => {
    const scenario = await domainWithFull(lab);
    await writeBothDisks(scenario, 20, 0x51);
    await scenario.domain.destroy();
    await scenario.domain.start();
    await writeBothDisks(scenario, 21, 0x52);
    expect((await scenario.backup('inc')).point.level).toBe('inc');
    await scenario.expectChainEqualsDisks();
  });

  const defineAnew = async ({ domain }: DomainScenario): Promise<void> => {
    if ((await domain.state()) !== 'shut off') await domain.destroy();
    await lab.virsh(['undefine', domain.uuid, '--checkpoints-metadata']);
    const file = join(lab.dir, 'again.xml');
    await writeFile(file, domain.xml);
    await lab.virsh(['define', file]);
    await domain.start();
  };

  it('goes on incrementally after it was undefined and defined again', async () => {
    const scenario = await domainWithFull(lab);
    await writeBothDisks(scenario, 20, 0x51);
    await defineAnew(scenario);
    await writeBothDisks(scenario, 21, 0x52);
    expect((await scenario.backup('inc')).point.level).toBe('inc');
    await scenario.expectChainEqualsDisks();
    await scenario.expectNothingLeft(2);
  });

  it.each<[string, (scenario: DomainScenario) => Promise<unknown>]>([
    [
      'that were broken when its QEMU was killed',
      async ({ domain }) => {
        // Stored, or nothing in the images tells of them.
        await domain.destroy();
        await domain.start();
        await domain.kill();
      },
    ],
    [
      'that a FULL made superfluous while it was off',
      async (scenario) => {
        await scenario.backup('inc');
        await scenario.domain.destroy();
        await scenario.backup('full');
      },
    ],
  ])('and defined anew keeps no bitmaps %s', async (_, meanwhile) => {
    const scenario = await domainWithFull(lab);
    await writeBothDisks(scenario, 20, 0x51);
    await meanwhile(scenario);
    await defineAnew(scenario);
    await writeBothDisks(scenario, 21, 0x52);
    expect(levelsOf(await scenario.backup('auto'))).toEqual(['vda inc by comparison', 'vdb inc by comparison']);
    await scenario.expectChainEqualsDisks();
    await scenario.expectNothingLeft(1);
    await scenario.domain.destroy();
    await scenario.expectNoStrayBitmaps();
  });

  it('is compared, and says why, after its QEMU was killed, and goes on incrementally then', async () => {
    const scenario = await domainWithFull(lab);
    await writeBothDisks(scenario, 20, 0x51);
    await scenario.domain.kill();
    await scenario.domain.start();
    await writeBothDisks(scenario, 21, 0x52);
    const refused = await expectCli(13, [...scenario.vm, 'backup', '--level', 'inc', '--target', scenario.target]);
    expect(refused.stderr).toContain('QEMU was killed');
    expect(levelsOf(await scenario.backup('auto'))).toEqual(['vda inc by comparison', 'vdb inc by comparison']);
    await scenario.expectChainEqualsDisks();
    await writeBothDisks(scenario, 22, 0x53);
    expect((await scenario.backup('inc')).point.level).toBe('inc');
    await scenario.expectChainEqualsDisks();
    await scenario.expectNothingLeft(2);
  });
});

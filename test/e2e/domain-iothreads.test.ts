import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { MiB } from '../support/builders.js';
import { expectCli } from '../support/cli.js';
import { domainScenario, writeBothDisks } from '../support/domain-scenario.js';
import { createImage } from '../support/lab/disk-images.js';
import { useLibvirt } from '../support/use-libvirt.js';

const lab = useLibvirt();

/** QEMU 7.2 aborts at the first pull. */
describe('a domain with iothreads', () => {
  it('is pushed by itself, refused what only a pull can do, and lives', async () => {
    const disks = await Promise.all(
      ['vda', 'vdb'].map(async (target, index) => {
        const file = join(lab.dir, 'images', `iothread-${target}.qcow2`);
        await createImage({ file, format: 'qcow2', size: 64 * MiB });
        return { target, file, iothread: index + 1 };
      }),
    );
    const scenario = await domainScenario(lab, { disks });
    const { domain, vm, target } = scenario;
    const auto = [...vm, 'backup', '--level', 'auto', '--target', target];
    const doctor = await expectCli(0, [...vm, 'doctor', '--target', target]);
    expect(doctor.stdout).toMatch(/by push, so the guest waits .*iothreads/);
    for (const time of [1, 2, 3]) {
      await writeBothDisks(scenario, time, 0x30 + time);
      const dry = await expectCli(0, [...auto, '--dry-run', '--verbose']);
      expect(dry.stdout + dry.stderr).toContain('iothreads');
      const { point } = await scenario.backup('auto');
      expect(point.level).toBe(time === 1 ? 'full' : 'inc');
      await scenario.expectChainEqualsDisks();
      expect(await domain.state()).toBe('running');
    }
    expect((await expectCli(13, [...auto, '--method', 'pull'])).stderr).toMatch(/iothreads.*aborts.*\n.*--method push/);
    expect((await expectCli(13, [...auto, '--verify'])).stderr).toMatch(/--verify .*a pull is refused.*iothreads/);
    await scenario.expectNothingLeft(2);
    await domain.destroy();
    expect((await expectCli(13, [...auto, '--start-paused'])).stderr).toMatch(/iothreads.*\n.*as they lie/);
    await expectCli(0, auto);
    await scenario.expectChainEqualsDisks();
  });
});

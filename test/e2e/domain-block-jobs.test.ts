import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { MiB } from '../support/builders.js';
import { expectCli } from '../support/cli.js';
import { type DomainScenario, domainWithFull } from '../support/domain-scenario.js';
import { holdDisk } from '../support/held-disk.js';
import { compareImages } from '../support/lab/compare.js';
import { flush, write } from '../support/lab/guest-writes.js';
import { useLibvirt } from '../support/use-libvirt.js';

/** As skip-failed.test.ts, of a domain: blockpull, blockcopy and blockcommit are jobs of single disks. */
interface Answer {
  readonly point: {
    readonly number: number;
    readonly disks: readonly { readonly disk: string; readonly level: string }[];
    readonly lacks?: readonly { readonly disk: string; readonly kind: string }[];
  };
}

const lab = useLibvirt();

async function expectRestored(scenario: DomainScenario, disks: Readonly<Record<string, string>>): Promise<string> {
  const output = join(lab.dir, `out-${Math.random().toString(36).slice(2)}`);
  const { stderr } = await expectCli(0, ['restore', '--target', scenario.target, '--output', output]);
  for (const [disk, file] of Object.entries(disks)) {
    await flush(scenario.domain, disk);
    await compareImages(join(output, `${disk}.qcow2`), file);
  }
  return stderr;
}

describe('a disk of a domain that has a job of somebody else', () => {
  for (const type of ['Block Pull', 'Block Copy', 'Active Block Commit'] as const) {
    it(`(${type}) is refused by name, or left out; the chains of the others go on, and then its own`, async () => {
      const scenario = await domainWithFull(lab);
      const { domain, vm, target, fileOf } = scenario;
      const auto = ['--json', ...vm, 'backup', '--level', 'auto', '--target', target];
      const release = await holdDisk(lab, scenario, type);
      const before = await scenario.checkpoints();

      const doctor = await expectCli(1, [...vm, 'doctor', '--target', target]);
      expect(doctor.stdout).toMatch(
        new RegExp(`^error +vda: it cannot be copied: .*\\(${type}\\).* -> .*--abort`, 'm'),
      );
      for (const more of [[], ['--method', 'push'], ['--dry-run']]) {
        const { stderr } = await expectCli(13, [...auto, ...more]);
        expect(stderr).toMatch(new RegExp(`a disk cannot be copied: vda: .*\\(${type}\\)`));
        const command = `virsh --connect '${lab.uri}' blockjob ${domain.name} vda`;
        expect(stderr).toContain(`(${command} --info), or end it: ${command} --abort`);
        expect(stderr).toContain('--skip-failed-disks');
      }
      expect(await scenario.checkpoints()).toEqual(before);

      for (const [number, method] of [
        [1, 'pull'],
        [2, 'push'],
      ] as const) {
        await write(domain, 'vdb', { offset: number * 5 * MiB, length: MiB, pattern: 0x30 + number });
        const partial = await expectCli(3, [...auto, '--skip-failed-disks', '--method', method]);
        expect(partial.stderr).toMatch(/warning: vda is not in the backup: /);
        const { point } = partial.json<Answer>();
        expect(point).toMatchObject({ number, disks: [{ disk: 'vdb', level: 'inc' }] });
        expect(point.lacks).toMatchObject([{ disk: 'vda', kind: 'failed' }]);
        expect(await expectRestored(scenario, { vdb: fileOf('vdb') })).toMatch(/warning: .*vda/);
      }

      await release();
      await write(domain, 'vda', { offset: 50 * MiB, length: MiB, pattern: 0x44 });
      const whole = (await expectCli(0, auto)).json<Answer>();
      expect(whole.point.lacks).toBeUndefined();
      expect(whole.point.disks.map(({ level }) => level)).toEqual(['inc', 'inc']);
      const top = type === 'Block Copy' ? fileOf('vda') : `${fileOf('vda')}.above`;
      await expectRestored(scenario, { vda: top, vdb: fileOf('vdb') });
      await scenario.expectNothingLeft(3);
      await expectCli(0, [...vm, 'doctor', '--target', target]);
    });
  }
});

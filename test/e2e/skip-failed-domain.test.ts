import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { expectCli } from '../support/cli.js';
import { crashCli } from '../support/crash-point.js';
import { type DomainScenario, domainWithFull, writeBothDisks } from '../support/domain-scenario.js';
import { compareImages } from '../support/lab/compare.js';
import { createImage } from '../support/lab/disk-images.js';
import { flush, write } from '../support/lab/guest-writes.js';
import type { DomainDisk, DomainOptions } from '../support/lab/libvirt-domain.js';
import { spoilCluster } from '../support/lab/spoil.js';
import { useLibvirt } from '../support/use-libvirt.js';

/** A domain's disk that cannot be read while its point is pulled: the others are sealed, and it loses no change. */
const MiB = 1024 * 1024;
const BAD = { offset: 5 * MiB, length: 65_536 };

const lab = useLibvirt();

interface Answer {
  readonly point: {
    readonly number: number;
    readonly disks: readonly { readonly disk: string; readonly level: string; readonly reason: string }[];
    readonly lacks?: readonly { readonly disk: string; readonly kind: string }[];
  };
}

/** A FULL, then a change of vdb that nobody can read. */
async function withBadDisk(more: Partial<DomainOptions> = {}): Promise<DomainScenario> {
  const scenario = await domainWithFull(lab, more);
  await write(scenario.domain, 'vdb', { ...BAD, pattern: 0x21 });
  await writeBothDisks(scenario, 20, 0x51);
  await scenario.domain.destroy();
  await spoilCluster(scenario.fileOf('vdb'), BAD.offset);
  return scenario;
}

function backupArguments({ vm, target }: DomainScenario, ...more: string[]): string[] {
  return ['--json', ...vm, 'backup', '--level', 'inc', '--target', target, ...more];
}

let restores = 0;

async function expectWithoutVdb(scenario: DomainScenario, number: number): Promise<void> {
  const partial = await expectCli(3, backupArguments(scenario, '--skip-failed-disks'));
  expect(partial.stderr).toMatch(/vdb is not in the backup: its copy failed: .*hangs up where it cannot read/);
  const { point } = partial.json<Answer>();
  expect(point).toMatchObject({ number, disks: [{ disk: 'vda', level: 'inc' }] });
  expect(point.lacks).toMatchObject([{ disk: 'vdb', kind: 'failed' }]);
  await scenario.expectNothingLeft(2);
  const output = join(lab.dir, `vda-${(restores += 1)}`);
  const restored = await expectCli(0, ['restore', '--target', scenario.target, '--output', output]);
  expect(restored.stderr).toMatch(/lacks vdb: its copy failed/);
  if ((await scenario.domain.state()) !== 'shut off') await flush(scenario.domain, 'vda');
  await compareImages(join(output, 'vda.qcow2'), scenario.fileOf('vda'));
}

/** Images that are off are only read: what a dead run left in them waits for the domain to run. */
async function expectOnlyVdaOff(run: readonly string[]): Promise<void> {
  const { point } = (await expectCli(3, run)).json<Answer>();
  expect(point).toMatchObject({ disks: [{ disk: 'vda' }], lacks: [{ disk: 'vdb', kind: 'failed' }] });
}

async function expectHealed(scenario: DomainScenario): Promise<void> {
  await write(scenario.domain, 'vdb', { ...BAD, pattern: 0x22 });
  const { point } = await scenario.backup('inc', '--skip-failed-disks');
  expect(point.disks.map(({ disk, level }) => `${disk} ${level}`)).toEqual(['vda inc', 'vdb inc']);
  await scenario.expectChainEqualsDisks();
  await scenario.expectNothingLeft(2);
  await scenario.domain.destroy();
  await scenario.expectNoStrayBitmaps();
}

describe('a disk of a domain that fails while it is copied', () => {
  it('while the domain runs: fails the run, or is left out, and its next INC is whole', async () => {
    const scenario = await withBadDisk();
    await scenario.domain.start();
    const refused = await expectCli(1, backupArguments(scenario));
    expect(refused.stderr).toMatch(/the backup of vdb failed: .*hangs up where it cannot read/);
    await scenario.expectNothingLeft(1);
    for (const step of [
      { when: 'after', call: 'rm', matches: /vdb\/INC-\d+\.qcow2\.partial$/ },
      { when: 'before', call: 'rename', matches: /catalog\.json$/ },
    ] as const) {
      await crashCli(step, backupArguments(scenario, '--skip-failed-disks'));
    }
    for (const number of [1, 2]) {
      await writeBothDisks(scenario, 20 + number, 0x60 + number);
      await expectWithoutVdb(scenario, number);
    }
    await writeBothDisks(scenario, 24, 0x71);
    await expectHealed(scenario);
  });

  it('while the domain is off, and then while it runs', async () => {
    const scenario = await withBadDisk();
    await expectWithoutVdb(scenario, 1);
    await scenario.domain.start();
    await writeBothDisks(scenario, 21, 0x61);
    await expectWithoutVdb(scenario, 2);
    await expectHealed(scenario);
  });

  it('leaves no checkpoint where it was the only one that is tracked', async () => {
    const disks = (['raw', 'qcow2'] as const).map((format, index): DomainDisk & { readonly file: string } => {
      const target = `vd${'ab'.charAt(index)}`;
      return { target, format, file: join(lab.dir, 'images', `only-tracked-${target}`) };
    });
    for (const { file, format = 'raw' } of disks) await createImage({ file, format, size: 64 * MiB });
    const scenario = await withBadDisk({ disks });
    await scenario.domain.start();
    const run = backupArguments(scenario, '--skip-failed-disks').map((word) => (word === 'inc' ? 'auto' : word));
    const expectOnlyVda = async (): Promise<void> => {
      const { point } = (await expectCli(3, run)).json<Answer>();
      expect(point).toMatchObject({
        disks: [{ disk: 'vda', level: 'inc' }],
        lacks: [{ disk: 'vdb', kind: 'failed' }],
      });
      await scenario.expectNothingLeft(1);
    };
    await expectOnlyVda();
    // Sealed, and dead before it was tidied up.
    await crashCli({ when: 'after', call: 'rename', matches: /catalog\.json$/ }, run);
    await expectOnlyVda();
    await crashCli({ when: 'after', call: 'rename', matches: /catalog\.json$/ }, run);
    await scenario.domain.destroy();
    await expectOnlyVdaOff(run);
    await scenario.domain.start();
    await expectOnlyVda();
    await write(scenario.domain, 'vdb', { ...BAD, pattern: 0x22 });
    const { point } = await scenario.backup('auto');
    expect(point.disks.map(({ disk, level }) => `${disk} ${level}`)).toEqual(['vda inc', 'vdb inc']);
    await scenario.expectChainEqualsDisks();
    await scenario.expectNothingLeft(2);
    await scenario.domain.destroy();
    await scenario.expectNoStrayBitmaps();
  });

  it('fails a push all the same: libvirt cancels all of it', async () => {
    const scenario = await withBadDisk();
    await scenario.domain.start();
    const failed = await expectCli(1, backupArguments(scenario, '--method', 'push', '--skip-failed-disks'));
    expect(failed.stderr).toMatch(/the backup of the domain failed: /);
    await scenario.expectNothingLeft(1);
    await expectHealed(scenario);
  });
});

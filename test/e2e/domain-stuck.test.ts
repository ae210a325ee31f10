import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { MiB } from '../support/builders.js';
import { expectCli } from '../support/cli.js';
import { domainScenario, writeBothDisks } from '../support/domain-scenario.js';
import { createImage } from '../support/lab/disk-images.js';
import { startLibvirt } from '../support/lab/libvirt.js';
import { mountBounded } from '../support/mounts.js';
import { afterTest, labDir, textsOf } from '../support/scenario.js';

it('a checkpoint whose bitmap cannot be taken out of an image is said of and holds up no backup of its domain', async () => {
  const dir = await labDir();
  const storage = join(dir, 'storage');
  const server = await mountBounded(storage);
  // After the mount, which it would not see.
  const lab = await startLibvirt();
  afterTest(() => lab.close());
  const disks = [
    { target: 'vda', file: join(lab.dir, 'images', 'vda.qcow2') },
    { target: 'vdb', file: join(storage, 'vdb.qcow2') },
  ];
  for (const { file } of disks) await createImage({ file, format: 'qcow2', size: 16 * MiB });
  const scratch = join(lab.dir, 'scratch');
  await mkdir(scratch);
  const scenario = await domainScenario(lab, { disks });
  const backup = (level: string, ...more: string[]) => scenario.backup(level, '--fleece-dir', scratch, ...more);
  await writeBothDisks(scenario, 0, 0x11);
  await backup('full');
  await writeBothDisks(scenario, 1, 0x22);
  await backup('inc');
  // What QEMU has stored of a bitmap it has to take out of the image.
  await scenario.domain.destroy();
  await scenario.domain.start();
  await writeBothDisks(scenario, 2, 0x33);

  await server.bound(0);
  const refused = /the bitmap \S+ of an earlier run cannot be removed now: .*File too large/;
  for (const number of [2, 3]) {
    const { point, warnings } = await backup('inc');
    expect(point).toMatchObject({ number, disks: [{ level: 'inc' }, { level: 'inc' }] });
    expect(textsOf(warnings).join()).toMatch(refused);
  }
  expect((await backup('inc', '--exclude', 'vdb')).point).toMatchObject({ number: 4, disks: [{ level: 'inc' }] });
  await expectCli(0, [...scenario.vm, 'recover', '--target', scenario.target]);
  await server.bound('unlimited');

  await writeBothDisks(scenario, 3, 0x44);
  expect((await backup('inc')).point).toMatchObject({ number: 5, disks: [{ level: 'inc' }, { level: 'inc' }] });
  await scenario.expectChainEqualsDisks();
  await scenario.expectNothingLeft(2);
});

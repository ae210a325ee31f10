import { copyFile, readdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { MiB } from '../support/builders.js';
import { expectCli } from '../support/cli.js';
import { createImage } from '../support/lab/disk-images.js';
import { write } from '../support/lab/guest-writes.js';
import { expectRefused, leavingNoTrace } from '../support/refusal.js';
import { type BackupAnswer, scenario, type Scenario } from '../support/scenario.js';

/** VMs that have nothing but a name, which their clones have, too. */

const levels = ({ point }: BackupAnswer): string => point.disks.map(({ disk, level }) => `${disk} ${level}`).join(', ');

function backupArgs(lab: Scenario, ...more: readonly string[]): readonly string[] {
  return ['--socket', lab.vm.socket, 'backup', '--level', 'auto', '--target', lab.target, ...more];
}

/** The VM's only disk is now in another image, which no run has seen. */
async function withAnotherImage(lab: Scenario, copied: boolean): Promise<string> {
  const file = join(lab.dir, 'elsewhere.qcow2');
  await lab.vm.stop();
  if (copied) {
    await copyFile(join(lab.dir, 'd1.qcow2'), file);
  } else {
    await createImage({ file, format: 'qcow2', size: 64 * MiB });
  }
  await lab.restart({ disks: [{ id: 'd1', format: 'qcow2', file }] });
  await write(lab.vm, 'd1', { offset: 5 * MiB, length: MiB, pattern: 0x55 });
  return file;
}

it("a clone is refused in its original's target; who says that it is that VM goes on", async () => {
  const lab = await scenario([{ id: 'd1' }]);
  await write(lab.vm, 'd1', { offset: MiB, length: MiB, pattern: 0x11 });
  await lab.backup('auto');
  await withAnotherImage(lab, false);
  await leavingNoTrace(lab, async () => {
    for (const more of [[], ['--dry-run']]) {
      await expectRefused(13, backupArgs(lab, ...more), /has the name of VM vm.*nothing else/s, /--vm-name vm$/m);
    }
  });
  const doctor = await expectCli(1, ['--socket', lab.vm.socket, 'doctor', '--target', lab.target]);
  expect(doctor.stdout).toContain('has the name of VM vm');

  // What the hint names: the images of this VM were moved.
  expect(levels(await lab.backup('auto', '--vm-name', 'vm'))).toBe('d1 inc');
  await lab.expectChainEqualsDisks();
  await write(lab.vm, 'd1', { offset: 7 * MiB, length: MiB, pattern: 0x77 });
  expect(levels(await lab.backup('auto'))).toBe('d1 inc');
  await lab.expectChainEqualsDisks();
});

it('the same at the beginning of a month', async () => {
  const lab = await scenario([{ id: 'd1' }]);
  const { target } = await lab.backup('auto', '--monthly');
  await rename(target, join(lab.target, 'vm', '2001-01'));
  await withAnotherImage(lab, false);
  await leavingNoTrace(lab, () =>
    expectRefused(13, backupArgs(lab, '--monthly'), 'nothing else of it', /--vm-name vm$/m),
  );
  expect(levels(await lab.backup('auto', '--monthly', '--vm-name', 'vm'))).toBe('d1 full');
  expect(await readdir(lab.target)).toEqual(['vm']);
});

it('an image that was moved whole has its bitmap, by which the VM is known', async () => {
  const lab = await scenario([{ id: 'd1' }]);
  await lab.backup('auto');
  await withAnotherImage(lab, true);
  expect(levels(await lab.backup('auto'))).toBe('d1 inc');
  await lab.expectChainEqualsDisks();
});

it('an external snapshot of the only disk is no clone', async () => {
  const lab = await scenario([{ id: 'd1' }]);
  await lab.backup('auto');
  for (const name of ['s1', 's2']) {
    const file = { 'snapshot-file': join(lab.dir, `${name}.qcow2`), format: 'qcow2' };
    await lab.vm.control.execute('blockdev-snapshot-sync', { device: 'd1', ...file });
  }
  expect(levels(await lab.backup('auto'))).toBe('d1 inc');
});

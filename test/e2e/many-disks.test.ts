import { join } from 'node:path';
import { expect, it } from 'vitest';
import { MiB } from '../support/builders.js';
import { qmpbackup } from '../support/cli.js';
import { write } from '../support/lab/guest-writes.js';
import { scenario } from '../support/scenario.js';

/** More disks and files than Node's default number of listeners; with --quiet no command has anything to say of them. */
it('two dozen disks: no command says anything that nobody can act on', async () => {
  const disks = Array.from({ length: 24 }, (_, index) => ({ id: `s${index}`, size: MiB, interface: 'scsi' as const }));
  const lab = await scenario(disks);
  const silently = async (...args: readonly string[]): Promise<void> => {
    const { exitCode, stderr } = await qmpbackup(['--quiet', ...args]);
    expect({ args, exitCode, stderr }).toEqual({ args, exitCode: 0, stderr: '' });
  };
  const vm = ['--socket', lab.vm.socket];
  const target = ['--target', lab.target];
  await silently(...vm, 'backup', '--level', 'auto', ...target);
  for (let time = 0; time < 12; time += 1) {
    await write(lab.vm, 's0', { offset: 65536 * time, length: 65536, pattern: 0x30 + time });
    await silently(...vm, 'backup', '--level', 'inc', '--include', 's0', ...target);
  }
  await silently(...vm, 'backup', '--level', 'auto', '--fleece', 'always', '--verify', ...target);
  await silently(...vm, 'info');
  await silently(...vm, 'doctor', ...target);
  await silently(...vm, 'recover', ...target);
  await silently('list', ...target);
  await silently('restore', ...target, '--output', join(lab.dir, 'restored'));
  await silently('merge', '--dir', join(lab.target, 's0'), '--targetfile', join(lab.dir, 'merged.qcow2'));
  await silently(...vm, 'cleanup', '--remove-bitmaps');
  await lab.vm.stop();
  const offline = disks.flatMap(({ id }) => ['--offline', `${id}=${join(lab.dir, `${id}.qcow2`)}`]);
  await silently('backup', '--level', 'copy', ...offline, ...target);
  await silently('rebase', '--dir', join(lab.target, 's0'));
});

/** How soon a point is proved to boot: a real guest whose agent answers, under software emulation. */
import { join } from 'node:path';
import { makeExt4 } from '../../../test/support/lab/disk-images.js';
import { ensureGuest } from '../../../test/support/lab/guest.js';
import { startQemu } from '../../../test/support/lab/qemu.js';
import { type Case, MiB, ofEachProgram, timed } from '../case.js';
import { runProgram } from '../programs.js';

const SIZE = 64 * MiB;

export const verifyBoot: Case = {
  name: 'verify-boot',
  idea: 'verify --boot of a point of a guest with ext4, until its agent answers, without KVM',
  unit: 'ms',
  limit: { by: 'itself', atMost: 60_000 },
  bytes: ({ programs }) => (programs + 1) * 2 * SIZE,
  unasked: ['memory'],
  prepare: async (bench, unwind) => {
    const file = join(bench.dir, 'd1.qcow2');
    await makeExt4({ file, label: 'DATA1', format: 'qcow2', size: SIZE });
    const vm = await startQemu({ dir: join(bench.dir, 'vm'), name: 'guest', disks: [{ id: 'd1', file }], guest: true });
    unwind.defer(() => vm.kill());
    const { kernel, initramfs } = await ensureGuest();
    const sockets = ['--socket', vm.socket, '--agent-socket', vm.agentSocket];
    const measures = await ofEachProgram(bench, async (program) => {
      const target = join(bench.dir, `target-${program.role}`);
      await runProgram(program, [...sockets, 'backup', '--level', 'full', '--quiesce=require', '--target', target]);
      const verify = ['verify', '--target', target, '--boot', '--', '-accel', 'tcg', '-kernel', kernel];
      return () => timed(() => runProgram(program, [...verify, '-initrd', initramfs]));
    });
    await vm.kill();
    return measures;
  },
};

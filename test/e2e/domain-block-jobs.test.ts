import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { expectCli } from '../support/cli.js';
import { domainScenario } from '../support/domain-scenario.js';
import { createImage } from '../support/lab/disk-images.js';
import { type LibvirtLab, startLibvirt } from '../support/lab/libvirt.js';
import { run } from '../support/lab/programs.js';

const MiB = 1024 * 1024;

let lab: LibvirtLab;
beforeAll(async () => {
  lab = await startLibvirt();
});
afterAll(async () => {
  await lab.close();
});

describe('a disk that has a job of somebody else', () => {
  it('is told of by doctor, and by an error that says how to go on; other disks are backed up', async () => {
    const [base, top, other] = ['base', 'top', 'other'].map((name) => join(lab.dir, 'images', `${name}.qcow2`));
    if (base === undefined || top === undefined || other === undefined) throw new Error('no images');
    await createImage({ file: base, format: 'qcow2', size: 128 * MiB });
    await run('qemu-io', ['-c', 'write -P 3 0 120M', base]);
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', base, '-F', 'qcow2', top]);
    await createImage({ file: other, format: 'qcow2', size: 16 * MiB });
    const disks = [
      { target: 'vda', file: top },
      { target: 'vdb', file: other },
    ];
    const scenario = await domainScenario(lab, { disks });
    const { domain, vm, target } = scenario;
    const auto = [...vm, 'backup', '--level', 'auto', '--target', target];
    const job = ['blockjob', domain.uuid, 'vda'];
    for (const [type, begin] of [
      ['Block Pull', ['blockpull', domain.uuid, 'vda', '--bandwidth', '1']],
      [
        'Block Copy',
        [...['blockcopy', domain.uuid, 'vda', '--dest', `${top}.copy`, '--format', 'qcow2'], '--transient-job'],
      ],
    ] as const) {
      await lab.virsh(begin);
      const doctor = await expectCli(1, [...vm, 'doctor', '--target', target]);
      expect(doctor.stdout).toMatch(
        new RegExp(`^error +vda: it has a job \\(${type}\\).*-> .*--abort.*--exclude vda`, 'm'),
      );
      for (const args of [auto, [...auto, '--method', 'push'], [...auto, '--dry-run']]) {
        const { stderr } = await expectCli(11, args);
        expect(stderr).toMatch(/'?vda'? has a (blockjob|job).*\n.*hint: .*virsh blockjob .* vda --info.*--exclude vda/);
      }
      await scenario.backup('copy', '--exclude', 'vda');
      await lab.virsh([...job, '--abort']);
    }
    await scenario.backup('auto');
    await expectCli(0, [...vm, 'doctor', '--target', target]);
  });
});

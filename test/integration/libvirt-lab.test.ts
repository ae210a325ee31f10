/** The libvirt lab itself, and a backup done by hand on it: what the tests of domains stand on. */
import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, describe, expect, it } from 'vitest';
import { freeze, thaw } from '../../src/libvirt/backup.js';
import { createVirsh } from '../../src/libvirt/virsh.js';
import { createImage, makeExt4 } from '../support/lab/disk-images.js';
import { expectPattern, flush, write } from '../support/lab/guest-writes.js';
import type { LabDomain } from '../support/lab/libvirt-domain.js';
import { startLibvirt } from '../support/lab/libvirt.js';
import { run } from '../support/lab/programs.js';
import { useLibvirt } from '../support/use-libvirt.js';

const MIB = 1024 * 1024;

const lab = useLibvirt();

interface Extent {
  readonly start: number;
  readonly length: number;
  readonly data: boolean;
}

/** The extents that a context of an export marks; dirty shows as data: false. */
async function marked(socket: string, name: string, context: string): Promise<Extent[]> {
  const server = `driver=nbd,server.type=unix,server.path=${socket},export=${name},x-dirty-bitmap=${context}`;
  const { stdout } = await run('qemu-img', ['map', '--output=json', '--image-opts', server]);
  return (JSON.parse(stdout) as Extent[]).filter(({ data }) => !data);
}

describe('a domain without a guest', () => {
  let domain: LabDomain;
  const files = (): string[] => ['vda', 'vdb'].map((target) => join(lab.dir, 'images', `a-${target}.qcow2`));

  beforeAll(async () => {
    const [vda, vdb] = files();
    for (const file of [vda!, vdb!]) await createImage({ file, format: 'qcow2', size: 32 * MIB });
    domain = await lab.define({
      name: 'bare',
      disks: [
        { target: 'vda', file: vda! },
        { target: 'vdb', file: vdb! },
      ],
    });
    await domain.start();
  });

  it('takes writes, and serves what changed since a checkpoint by a pull-mode backup', async () => {
    await write(domain, 'vda', { offset: MIB, length: MIB, pattern: 0x11 });
    const socket = join(lab.dir, 'nbd.sock');
    const begin = async (checkpoint: string, incremental: string): Promise<void> => {
      const backup = join(lab.dir, 'backup.xml');
      const disks = ['vda', 'vdb'].map(
        (disk) => `<disk name='${disk}' type='file'><scratch file='${join(lab.dir, `${disk}.scratch`)}'/></disk>`,
      );
      const server = `<server transport='unix' socket='${socket}'/>`;
      await writeFile(
        backup,
        `<domainbackup mode='pull'>${incremental}${server}<disks>${disks.join('')}</disks></domainbackup>`,
      );
      const file = join(lab.dir, 'checkpoint.xml');
      await writeFile(file, `<domaincheckpoint><name>${checkpoint}</name></domaincheckpoint>`);
      await lab.virsh(['backup-begin', domain.uuid, backup, file]);
    };
    const end = async (): Promise<void> => {
      await lab.virsh(['domjobabort', domain.uuid]);
      // virsh does not wait until the job is gone.
      while (existsSync(join(lab.dir, 'vda.scratch'))) await sleep(20);
    };
    await begin('first', '');
    await end();
    await write(domain, 'vda', { offset: 4 * MIB, length: MIB, pattern: 0x22 });
    await begin('second', '<incremental>first</incremental>');
    try {
      // After the instant: in neither the export nor this increment.
      await write(domain, 'vda', { offset: 8 * MIB, length: MIB, pattern: 0x33 });
      const dirty = await marked(socket, 'vda', 'qemu:dirty-bitmap:backup-vda');
      expect(dirty).toMatchObject([{ start: 4 * MIB, length: MIB }]);
      await expect(marked(socket, 'vdb', 'qemu:dirty-bitmap:backup-vdb')).resolves.toEqual([]);
      const copy = join(lab.dir, 'copy.qcow2');
      await run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', `nbd+unix:///vda?socket=${socket}`, copy]);
      const reads = ['-c', 'read -P 0x22 4M 1M', '-c', 'read -P 0 8M 1M'];
      expect((await run('qemu-io', ['-r', ...reads, copy])).stdout).not.toContain('failed');
    } finally {
      await end();
    }
  });

  it('lives on when libvirtd ends and starts again', async () => {
    const pid = await domain.pid();
    for (const how of ['graceful', 'kill'] as const) {
      await lab.stopDaemon(how);
      await expect(lab.virsh(['list'])).rejects.toThrow(/failed to connect/);
      await lab.startDaemon();
      await expect(domain.pid()).resolves.toBe(pid);
      await expect(domain.state()).resolves.toBe('running');
    }
    await expectPattern(domain, 'vda', { offset: 4 * MIB, length: MIB, pattern: 0x22 });
    await flush(domain, 'vda');
  });

  it('is shut off after its QEMU was killed, and starts again', async () => {
    const pid = await domain.pid();
    await domain.kill();
    expect(existsSync(`/proc/${pid}`)).toBe(false);
    await domain.start({ paused: true });
    await expect(domain.state()).resolves.toBe('paused');
    await domain.destroy();
  });
});

describe('a domain with the real guest', () => {
  it('runs commands, answers its agent, and turns itself off', async () => {
    const file = join(lab.dir, 'images', 'guest.qcow2');
    await makeExt4({ file, format: 'qcow2', size: 64 * MIB, label: 'DATA1' });
    const domain = await lab.define({
      name: 'guest',
      disks: [{ target: 'vda', file }],
      guest: { workload: ['writer'] },
    });
    await domain.start();
    await domain.guest.waitForWorkload('writer');
    const virsh = createVirsh(lab.uri);
    const deadline = { timeoutMs: 30_000 };
    await expect(freeze(virsh, domain.uuid, deadline)).resolves.toBe(1);
    await expect(domain.guest.isFrozen('/mnt/d1')).resolves.toBe(true);
    await expect(freeze(virsh, domain.uuid, deadline)).rejects.toMatchObject({ reason: 'already-frozen' });
    await expect(thaw(virsh, domain.uuid, deadline)).resolves.toBe(1);
    await expect(thaw(virsh, domain.uuid, deadline)).resolves.toBe(0);
    await domain.shutdown();
    await expect(domain.state()).resolves.toBe('shut off');
  });
});

it('two labs know nothing of each other, and what is closed is gone', async () => {
  const other = await startLibvirt();
  const file = join(other.dir, 'images', 'x.qcow2');
  await createImage({ file, format: 'qcow2', size: MIB });
  const domain = await other.define({ name: 'bare', disks: [{ target: 'vda', file }] });
  await domain.start();
  const pid = await domain.pid();
  await expect(lab.virsh(['domstate', domain.uuid])).rejects.toThrow(/failed to get domain/);
  await other.close();
  expect(existsSync(`/proc/${pid}`)).toBe(false);
  expect(existsSync(other.dir)).toBe(false);
});

/** As faults-before.ts, of a domain that libvirt runs, or that is off. */
import { mkdir, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { MiB } from './builders.js';
import { type DomainScenario, domainScenario, domainWithFull } from './domain-scenario.js';
import type { FaultBefore, Situation } from './faults-before.js';
import { holdDisk } from './held-disk.js';
import { createImage } from './lab/disk-images.js';
import type { LibvirtLab } from './lab/libvirt.js';
import { run } from './lab/programs.js';
import { startQemu } from './lab/qemu.js';
import { mountHanging } from './mounts.js';
import { afterTest, labDir } from './scenario.js';

const of = ({ vm, target }: DomainScenario, more: Partial<Situation> = {}): Situation => ({ vm, target, ...more });

const DOMAIN_FAULTS_BEFORE: readonly {
  readonly what: string;
  readonly ends: number;
  readonly arrange: (lab: LibvirtLab) => Promise<Situation>;
}[] = [
  {
    what: 'libvirt does not answer',
    ends: 12,
    arrange: (lab) =>
      Promise.resolve({
        vm: ['--connect', 'qemu+unix:///system?socket=/nowhere', '--domain', 'a'],
        target: join(lab.dir, 'never'),
      }),
  },
  {
    what: 'there is no such domain',
    ends: 12,
    arrange: (lab) =>
      Promise.resolve({
        vm: ['--connect', lab.uri, '--domain', 'no such thing'],
        target: join(lab.dir, 'never'),
      }),
  },
  {
    what: 'there is no virsh',
    ends: 1,
    arrange: async (lab) => of(await domainScenario(lab), { env: { PATH: await pathWith('qemu-img', 'qemu-nbd') } }),
  },
  {
    what: 'there is no qemu-nbd, which increments need',
    ends: 1,
    arrange: async (lab) => of(await domainWithFull(lab), { env: { PATH: await pathWith('virsh', 'qemu-img') } }),
  },
  {
    what: 'there is no qemu-img',
    ends: 1,
    arrange: async (lab) => of(await domainScenario(lab), { env: { PATH: await pathWith('virsh', 'qemu-nbd') } }),
  },
  {
    what: 'somebody else has a backup job',
    ends: 11,
    arrange: async (lab) => {
      const scenario = await domainScenario(lab);
      const job = join(lab.dir, 'foreign-job.xml');
      const [socket, scratch] = [join(lab.dir, 'foreign-job.sock'), join(lab.dir, 'images', 'foreign-job.scratch')];
      await writeFile(
        job,
        `<domainbackup mode='pull'><server transport='unix' socket='${socket}'/><disks><disk name='vda' backupmode='full' type='file'><scratch file='${scratch}'/></disk></disks></domainbackup>`,
      );
      await lab.virsh(['backup-begin', scenario.domain.uuid, job]);
      return of(scenario);
    },
  },
  ...(['Block Pull', 'Block Copy', 'Active Block Commit'] as const).map((type) => ({
    what: `a disk has a job (${type})`,
    ends: 13,
    arrange: async (lab: LibvirtLab) => {
      const scenario = await domainScenario(lab);
      await holdDisk(lab, scenario, type);
      return of(scenario);
    },
  })),
  {
    what: 'the domain has no disk that is backed up',
    ends: 13,
    arrange: async (lab) => {
      const file = join(lab.dir, 'images', 'read-only.qcow2');
      await createImage({ file, format: 'qcow2', size: 16 * MiB });
      return of(await domainScenario(lab, { disks: [{ target: 'vda', file, xml: '<readonly/>' }] }));
    },
  },
  {
    what: 'an image of a domain that is off is gone',
    ends: 13,
    arrange: async (lab) => {
      const scenario = await domainScenario(lab);
      await scenario.domain.destroy();
      await rm(scenario.fileOf('vdb'));
      return of(scenario);
    },
  },
  {
    what: 'an image of a domain that is off is no image',
    ends: 13,
    arrange: async (lab) => {
      const scenario = await domainScenario(lab);
      await scenario.domain.destroy();
      await writeFile(scenario.fileOf('vdb'), 'no image');
      return of(scenario);
    },
  },
  {
    what: 'a VM that libvirt does not run has an image of a domain that is off',
    ends: 13,
    arrange: async (lab) => {
      const scenario = await domainScenario(lab);
      await scenario.domain.destroy();
      const disks = [{ id: 'd1', file: scenario.fileOf('vda') }];
      const vm = await startQemu({ dir: join(await labDir(), 'vm'), disks, name: 'other' });
      afterTest(() => vm.kill());
      return of(scenario);
    },
  },
  {
    what: 'a network disk of a domain that is off does not answer',
    ends: 13,
    arrange: async (lab) => {
      const scenario = await domainScenario(lab);
      await scenario.domain.destroy();
      const disk = `<disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='nbd'><host name='127.0.0.1' port='9'/></source><target dev='vdc' bus='virtio'/></disk>`;
      const file = join(lab.dir, 'network.xml');
      await writeFile(file, scenario.domain.xml.replace('</devices>', `${disk}</devices>`));
      await lab.virsh(['define', file]);
      return of(scenario);
    },
  },
  {
    what: 'the target belongs to another domain',
    ends: 13,
    arrange: async (lab) => {
      const { target } = await domainWithFull(lab);
      return of(await domainScenario(lab), { target });
    },
  },
  {
    what: 'the target hangs',
    ends: 1,
    arrange: async (lab) => {
      const scenario = await domainScenario(lab);
      const target = join(await labDir(), 'hanging');
      (await mountHanging(target)).hang();
      return of(scenario, { target, backupOptions: ['--stall-timeout', '2'] });
    },
  },
  {
    what: 'the socket is that of a domain',
    ends: 13,
    arrange: async (lab) => {
      const { domain, target } = await domainScenario(lab);
      const id = (await lab.virsh(['domid', domain.uuid])).stdout.trim();
      const folder = join(lab.dir, 'var/lib/libvirt/qemu', `domain-${id}-${domain.name}`);
      return { vm: ['--socket', join(folder, 'monitor.sock')], target };
    },
  },
];

/** The rows for one libvirt. */
export function domainFaultsBefore(lab: () => LibvirtLab): readonly FaultBefore[] {
  return DOMAIN_FAULTS_BEFORE.map((fault) => ({ ...fault, arrange: () => fault.arrange(lab()) }));
}

/** A folder in which only these programs, and what every system has, are found. */
async function pathWith(...programs: readonly string[]): Promise<string> {
  const folder = join(await labDir(), 'bin');
  await mkdir(folder);
  for (const program of [...programs, 'sh', 'sleep']) {
    const { stdout } = await run('which', [program]);
    await symlink(stdout.trim(), join(folder, program));
  }
  return folder;
}

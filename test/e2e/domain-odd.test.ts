import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { copyFile, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { Catalog } from '../../src/core/catalog.js';
import type { BackupPlan } from '../../src/core/plan.js';
import { expectCli } from '../support/cli.js';
import { type DomainScenario, domainScenario, domainWithFull, writeBothDisks } from '../support/domain-scenario.js';
import { createEncryptedImage, createImage } from '../support/lab/disk-images.js';
import { write } from '../support/lab/guest-writes.js';
import { diskXml, type DomainDisk } from '../support/lab/libvirt-domain.js';
import { type LibvirtLab, startLibvirt } from '../support/lab/libvirt.js';
import { run } from '../support/lab/programs.js';
import { patient } from '../support/patience.js';
import { useLibvirt } from '../support/use-libvirt.js';

// Images that came back from elsewhere, disks and names that are not as usual, states a domain can be in.

const MiB = 1024 * 1024;

const lab = useLibvirt();

const levels = (answer: Awaited<ReturnType<DomainScenario['backup']>>) =>
  answer.point.disks.map(({ disk, level }) => `${disk} ${level}`);

/** While it is off. */
async function whileOff({ domain }: DomainScenario, change: () => Promise<unknown>): Promise<void> {
  await domain.destroy();
  await change();
  await domain.start();
}

describe('an image that was put back', () => {
  it('goes on incrementally with the bitmap of the newest point in it; without it that disk is compared', async () => {
    const scenario = await domainWithFull(lab);
    const keep = async (tag: string): Promise<void> => {
      for (const disk of ['vda', 'vdb']) await copyFile(scenario.fileOf(disk), `${scenario.fileOf(disk)}.${tag}`);
    };
    const putBack = async (tag: string, ...disks: readonly string[]): Promise<void> => {
      for (const disk of disks) await copyFile(`${scenario.fileOf(disk)}.${tag}`, scenario.fileOf(disk));
    };
    await writeBothDisks(scenario, 20, 0x51);
    await whileOff(scenario, () => keep('of point 0'));
    await scenario.backup('inc');
    await writeBothDisks(scenario, 21, 0x52);
    await whileOff(scenario, () => keep('of point 1'));
    await writeBothDisks(scenario, 22, 0x53);
    await whileOff(scenario, () => putBack('of point 1', 'vda', 'vdb'));
    await writeBothDisks(scenario, 23, 0x54);
    expect(levels(await scenario.backup('inc'))).toEqual(['vda inc', 'vdb inc']);

    await whileOff(scenario, () => putBack('of point 0', 'vdb'));
    await writeBothDisks(scenario, 24, 0x55);
    const answer = await scenario.backup('auto');
    expect(levels(answer)).toEqual(['vda inc', 'vdb inc']);
    expect(answer.point.disks[1]?.reason).toMatch(/the bitmap of INC-\d+\.qcow2 is missing .*rolled back/);
    // What vda had after its image was put back is in the increments that this restores.
    await scenario.expectChainEqualsDisks();
    await scenario.expectNothingLeft(2);
  });
});

describe('a domain that ran elsewhere', () => {
  it('goes on incrementally there and here again, and by comparison where its bitmaps were lost', async () => {
    const scenario = await domainWithFull(lab);
    const { domain, target } = scenario;
    const elsewhere = await startLibvirt();
    try {
      const file = join(lab.dir, 'moved.xml');
      await writeFile(file, domain.xml);
      const move = async (from: LibvirtLab, to: LibvirtLab): Promise<void> => {
        await from.virsh(['destroy', domain.uuid]);
        await from.virsh(['undefine', domain.uuid, '--checkpoints-metadata']);
        await to.virsh(['define', file]);
        await to.virsh(['start', domain.uuid]);
      };
      await writeBothDisks(scenario, 20, 0x51);
      await move(lab, elsewhere);
      const hmp = ['qemu-monitor-command', domain.uuid, '--hmp'];
      const device = (disk: string): string => domain.disk(disk).hmpReference;
      for (const disk of ['vda', 'vdb']) {
        await elsewhere.virsh([...hmp, `qemu-io ${device(disk)} "write -P 0x52 22M 1M"`]);
      }
      const vm = ['--connect', elsewhere.uri, '--domain', domain.uuid];
      const { point } = (await expectCli(0, ['--json', ...vm, 'backup', '--level', 'inc', '--target', target])).json<
        Awaited<ReturnType<DomainScenario['backup']>>
      >();
      expect(point).toMatchObject({ number: 1, level: 'inc' });
      await elsewhere.virsh([...hmp, `qemu-io ${device('vda')} "write -P 0x53 23M 1M"`]);
      await move(elsewhere, lab);
      domain.forget();
      await writeBothDisks(scenario, 24, 0x54);
      expect((await scenario.backup('inc')).point).toMatchObject({ number: 2, level: 'inc' });
    } finally {
      await elsewhere.close();
    }
    const { points } = JSON.parse(await readFile(join(target, 'catalog.json'), 'utf8')) as Catalog;
    const name = points.at(-1)?.disks[0]?.bitmap?.name ?? '';
    await domain.destroy();
    await lab.virsh(['undefine', domain.uuid, '--checkpoints-metadata']);
    await run('qemu-img', ['bitmap', '--remove', scenario.fileOf('vdb'), name]);
    await lab.virsh(['define', join(lab.dir, 'moved.xml')]);
    await domain.start();
    await writeBothDisks(scenario, 25, 0x55);
    const answer = await scenario.backup('auto');
    expect(levels(answer)).toEqual(['vda inc', 'vdb inc']);
    expect(answer.point.disks[1]?.reason).toContain('is gone');
    await scenario.expectChainEqualsDisks();
    await scenario.expectNothingLeft(2);
  });
});

describe('a disk that changed', () => {
  it('its size: grown goes on incrementally, replaced by another image is a FULL', async () => {
    const scenario = await domainWithFull(lab);
    await lab.virsh(['blockresize', scenario.domain.uuid, 'vda', '96M']);
    await write(scenario.domain, 'vda', { offset: 80 * MiB, length: MiB, pattern: 0x51 });
    expect(levels(await scenario.backup('inc'))).toEqual(['vda inc', 'vdb inc']);
    await whileOff(scenario, () => createImage({ file: scenario.fileOf('vdb'), format: 'qcow2', size: 32 * MiB }));
    await writeBothDisks(scenario, 24, 0x52);
    const answer = await scenario.backup('auto');
    expect(levels(answer)).toEqual(['vda inc', 'vdb full']);
    expect(answer.point.disks[1]?.reason).toMatch(/replaced|shrunk/);
    await scenario.expectChainEqualsDisks();
    await scenario.expectNothingLeft(2);
  });

  it('added, taken away, and one that took over the name of another: never a wrong parent', async () => {
    const scenario = await domainWithFull(lab);
    const { domain, target } = scenario;
    const added = { target: 'vdc', file: join(lab.dir, 'images', 'added.qcow2') };
    await createImage({ file: added.file, format: 'qcow2', size: 32 * MiB });
    const file = join(lab.dir, 'added.xml');
    await writeFile(file, diskXml(added));
    await lab.virsh(['attach-device', domain.uuid, file]);
    await writeBothDisks(scenario, 20, 0x51);
    expect(levels(await scenario.backup('auto'))).toEqual(['vda inc', 'vdb inc', 'vdc full']);

    // vda is gone and vdb is called vda from now on: both images carry bitmaps of one name.
    await domain.destroy();
    await lab.virsh(['undefine', domain.uuid, '--checkpoints-metadata']);
    const other = join(lab.dir, 'other.xml');
    const swapped = domain.xml
      .replace(/ {4}<disk type='file'[^]*?<\/disk>\n/, '')
      .replace("<target dev='vdb'", "<target dev='vda'");
    await writeFile(other, swapped);
    await lab.virsh(['define', other]);
    await domain.start();
    await write(domain, 'vda', { offset: 30 * MiB, length: MiB, pattern: 0x52 });
    const answer = await scenario.backup('auto');
    expect(levels(answer)).toEqual(['vdb inc']);
    expect(answer.point.removed).toEqual(['vda', 'vdc']);
    const output = join(lab.dir, 'renamed');
    await expectCli(0, ['restore', '--target', target, '--output', output]);
    await domain.destroy();
    await run('qemu-img', ['compare', join(output, 'vdb.qcow2'), scenario.fileOf('vdb')]);
  });
});

describe('disks and names that are not as usual', () => {
  it('a data file, a raw disk, an image that is open twice, one file name twice, and characters that need quotes', async () => {
    const odd = `we ird & <"'>%;#,:=$(ü)`;
    const dirs = [odd, 'two'].map((each) => join(lab.dir, 'images', each));
    for (const dir of dirs) await mkdir(dir);
    const [one = '', two = ''] = dirs.map((dir) => join(dir, 'disk.img'));
    await createImage({ file: one, format: 'qcow2', size: 64 * MiB });
    await run('qemu-img', [
      ...['create', '-q', '-f', 'qcow2', '-o', `data_file=${join(lab.dir, 'images', 'data.raw')},data_file_raw=on`],
      ...[two, '64M'],
    ]);
    const raw = join(lab.dir, 'images', 'disk.raw');
    await createImage({ file: raw, format: 'raw', size: 32 * MiB });
    const disks: DomainDisk[] = [
      { target: 'vda', file: one },
      { target: 'vdb', file: two },
      { target: 'vdc', file: raw, format: 'raw' },
    ];
    const twice = join(lab.dir, 'images', 'twice.raw');
    await createImage({ file: twice, format: 'raw', size: 32 * MiB });
    const shared = ['vdd', 'vde'].map(
      (target) => ({ target, file: twice, format: 'raw', xml: '<shareable/>' }) as const,
    );
    const scenario = await domainScenario(lab, { name: `-${odd}`, disks, devices: shared.map(diskXml).join('') });
    const change = async (offset: number, pattern: number): Promise<void> => {
      for (const { target } of disks) {
        await write(scenario.domain, target, { offset: offset * MiB, length: MiB, pattern });
      }
    };
    await change(1, 0x41);
    expect(levels(await scenario.backup('auto'))).toEqual(['vda full', 'vdb full', 'vdc full']);
    await change(3, 0x42);
    const answer = await scenario.backup('auto');
    expect(levels(answer)).toEqual(['vda inc', 'vdb inc', 'vdc inc']);
    expect(answer.point.disks[2]?.reason).toContain('raw');
    expect(answer.plan.leftOut.map(({ name, reason }) => `${name}: ${reason}`).join()).toMatch(
      /vdd: .*vde.*vde: .*vdd/,
    );
    await scenario.expectChainEqualsDisks();
    await scenario.expectNothingLeft(2);
  });

  it('an image of qcow2 version 2: its disk is compared each time, and holds up no other', async () => {
    const disks = ['vda', 'vdb'].map((target) => ({ target, file: join(lab.dir, 'images', `old-${target}.qcow2`) }));
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', 'compat=0.10', disks[0]!.file, '64M']);
    await createImage({ file: disks[1]!.file, format: 'qcow2', size: 64 * MiB });
    const scenario = await domainScenario(lab, { disks });
    const { domain, target, vm } = scenario;
    await writeBothDisks(scenario, 1, 0x71);
    await scenario.backup('auto');
    await writeBothDisks(scenario, 3, 0x72);
    const answer = await scenario.backup('auto');
    expect(levels(answer)).toEqual(['vda inc', 'vdb inc']);
    expect(answer.point.disks[0]).toMatchObject({ reason: expect.stringContaining('qemu-img amend') as string });
    await scenario.expectChainEqualsDisks();
    const { stdout } = await expectCli(0, [...vm, 'doctor', '--target', target]);
    expect(stdout).toContain('qemu-img amend');
    await domain.destroy();
  });

  it('an encrypted image is not written decrypted unless that is allowed, however the domain is reached', async () => {
    const secret = randomUUID();
    const definition = join(lab.dir, 'secret.xml');
    const usage = `<usage type='volume'><volume>${secret}</volume></usage>`;
    await writeFile(definition, `<secret ephemeral='no' private='yes'><uuid>${secret}</uuid>${usage}</secret>`);
    await lab.virsh(['secret-define', definition]);
    await lab.virsh(['secret-set-value', secret, Buffer.from('open sesame').toString('base64')]);
    const file = join(lab.dir, 'images', 'luks.qcow2');
    await createEncryptedImage(file, 64 * MiB, 'open sesame');
    const xml = `<encryption format='luks'><secret type='passphrase' uuid='${secret}'/></encryption>`;
    const { domain, vm, target } = await domainScenario(lab, { disks: [{ target: 'vda', file, xml }] });
    await write(domain, 'vda', { offset: 0, length: MiB, pattern: 0x41 });
    const backup = [...vm, 'backup', '--level', 'auto', '--target', target];
    const refused = 'vda: the image is encrypted, and QEMU would write its backup decrypted';
    expect((await expectCli(13, backup)).stderr).toContain(refused);
    expect((await expectCli(13, [...backup, '--method', 'push'])).stderr).toContain(refused);
    expect((await expectCli(1, [...vm, 'doctor'])).stdout).toContain('the image is encrypted');
    expect((await expectCli(0, [...backup, '--allow-plaintext'])).stderr).toContain('its backup is not');
    await domain.destroy();
    expect((await expectCli(13, [...backup, '--start-paused'])).stderr).toContain('encrypted');
  });

  it('a name that looks like an id or a UUID is a name', async () => {
    const uuid = randomUUID();
    const first = await domainScenario(lab, { uuid });
    const id = (await lab.virsh(['domid', first.domain.uuid])).stdout.trim();
    const second = await domainScenario(lab, { name: id });
    const planned = async (vm: string) => {
      const args = ['--json', '--connect', lab.uri, '--domain', vm, 'backup', '--level', 'full', '--dry-run'];
      const answer = await expectCli(0, [...args, '--target', first.target]);
      return answer.json<{ plan: BackupPlan }>().plan.disks.map(({ source }) => source.file);
    };
    expect(await planned(id)).toEqual(['vda', 'vdb'].map((disk) => second.fileOf(disk)));
    expect(await planned(uuid.toUpperCase())).toEqual(['vda', 'vdb'].map((disk) => first.fileOf(disk)));
    await lab.define({ name: uuid, disks: [] });
    const asked = ['--connect', lab.uri, '--domain', uuid, 'backup', '--level', 'full', '--target', first.target];
    const refused = await expectCli(2, asked);
    expect(refused.stderr).toContain(first.domain.name);
  });
});

describe('states of a domain', () => {
  it('paused and crashed, with its QEMU there, are backed up as they stand', async () => {
    const scenario = await domainScenario(lab, { devices: `<panic model='isa'/>`, onCrash: 'preserve' });
    const { domain } = scenario;
    await writeBothDisks(scenario, 1, 0x41);
    await lab.virsh(['suspend', domain.uuid]);
    expect((await scenario.backup('full')).point).toMatchObject({ consistency: 'crash' });
    expect(await domain.state()).toBe('paused');
    await lab.virsh(['resume', domain.uuid]);
    await writeBothDisks(scenario, 3, 0x43);
    await lab.virsh(['qemu-monitor-command', domain.uuid, '--hmp', 'o /b 0x505 1']);
    await expect.poll(() => domain.state(), { timeout: patient(20_000) }).toBe('crashed');
    expect((await scenario.backup('inc')).point).toMatchObject({ level: 'inc', consistency: 'crash' });
    expect(await domain.state()).toBe('crashed');
    await scenario.expectChainEqualsDisks();
    await scenario.expectNothingLeft(2);
  });

  it('with internal snapshots: goes on incrementally, and by comparison after it went back to one', async () => {
    const scenario = await domainScenario(lab);
    const { domain, vm } = scenario;
    await writeBothDisks(scenario, 1, 0x61);
    await lab.virsh(['snapshot-create-as', domain.uuid, 'before']);
    await scenario.backup('full');
    await writeBothDisks(scenario, 3, 0x62);
    await lab.virsh(['snapshot-create-as', domain.uuid, 'between']);
    await writeBothDisks(scenario, 5, 0x63);
    expect(levels(await scenario.backup('inc'))).toEqual(['vda inc', 'vdb inc']);
    await scenario.expectChainEqualsDisks();

    // With checkpoints QEMU would refuse, and libvirt end the domain.
    await expectCli(0, [...vm, 'cleanup', '--remove-bitmaps']);
    await lab.virsh(['snapshot-revert', domain.uuid, 'before']);
    expect(await domain.state()).toBe('running');
    expect(levels(await scenario.backup('auto'))).toEqual(['vda inc', 'vdb inc']);
    await scenario.expectChainEqualsDisks();
    await scenario.expectNothingLeft(1);
  });

  it('with an external snapshot: goes on incrementally in the overlay', async () => {
    const scenario = await domainWithFull(lab);
    const { domain, target } = scenario;
    await writeBothDisks(scenario, 20, 0x51);
    await lab.virsh(['snapshot-create-as', domain.uuid, 's1', '--disk-only']);
    await writeBothDisks(scenario, 22, 0x52);
    expect(levels(await scenario.backup('auto'))).toEqual(['vda inc', 'vdb inc']);
    const output = join(lab.dir, 'of-overlays');
    await expectCli(0, ['restore', '--target', target, '--output', output]);
    await domain.destroy();
    for (const disk of ['vda', 'vdb']) {
      const overlay = scenario.fileOf(disk).replace(/qcow2$/, 's1');
      await run('qemu-img', ['compare', join(output, `${disk}.qcow2`), overlay]);
    }
  });
});

it('a virsh that the environment has tell of its own doings answers as any other', async () => {
  const scenario = await domainScenario(lab);
  const log = join(lab.dir, 'virsh.log');
  const env = { NO_COLOR: '1', VIRSH_DEBUG: '0', VIRSH_LOG_FILE: log };
  await expectCli(0, [...scenario.vm, 'backup', '--level', 'full', '--target', scenario.target], { env });
  expect(existsSync(log)).toBe(false);
  await scenario.expectChainEqualsDisks();
});

import { readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MiB } from '../support/builders.js';
import { expectCli, qmpbackup } from '../support/cli.js';
import { domainScenario } from '../support/domain-scenario.js';
import { compareImages } from '../support/lab/compare.js';
import { write } from '../support/lab/guest-writes.js';
import { type LibvirtLab, startLibvirt } from '../support/lab/libvirt.js';
import { overlaidDomain, OVERLAID } from '../support/overlaid-domain.js';
import { patient } from '../support/patience.js';
import type { BackupAnswer } from '../support/scenario.js';

let here: LibvirtLab;
let there: LibvirtLab;
beforeAll(async () => {
  [here, there] = await Promise.all([startLibvirt(), startLibvirt()]);
}, patient(120_000));
afterAll(async () => {
  await Promise.all([here, there].map((lab) => lab.close()));
});

const isRefused = { exitCode: 13, stderr: expect.stringMatching(/^error: the domain [^]*^hint: /m) as string };

describe('a domain that was migrated to another libvirt', () => {
  it('is no VM that is off where it came from, and its chain goes on where it is', async () => {
    const lab = await domainScenario(here);
    const { name, uuid } = lab.domain;
    await write(lab.domain, 'vda', { offset: 0, length: MiB, pattern: 0x11 });
    await lab.backup('full');
    await write(lab.domain, 'vda', { offset: 2 * MiB, length: MiB, pattern: 0x22 });
    const socket = `unix://${join(here.dir, 'migration')}`;
    const migrate = ['migrate', '--live', '--unsafe', '--persistent', uuid, there.uri, '--migrateuri', socket];
    await here.virsh(migrate);
    expect((await here.virsh(['domstate', '--reason', uuid])).stdout.trim()).toBe('shut off (migrated)');

    const at = ['--target', lab.target];
    for (const more of [[], ['--dry-run'], ['--start-paused']]) {
      expect(await qmpbackup([...lab.vm, 'backup', '--level', 'auto', ...at, ...more])).toMatchObject(isRefused);
    }
    expect(await qmpbackup([...lab.vm, 'cleanup', '--remove-bitmaps'])).toMatchObject(isRefused);
    expect(await qmpbackup([...lab.vm, 'recover', ...at])).toMatchObject(isRefused);
    const doctor = await qmpbackup([...lab.vm, 'doctor', ...at]);
    expect(doctor).toMatchObject({
      exitCode: 1,
      stdout: expect.stringMatching(/^error +VM: it was migrated away/m) as string,
    });

    const arrived = ['--json', '--connect', there.uri, '--domain', name, 'backup', '--level', 'inc', ...at];
    const answer = (await expectCli(0, arrived)).json<{ point: { level: string } }>();
    expect(answer.point.level).toBe('inc');
    // At rest, and still not of the libvirt that it came from.
    await there.virsh(['destroy', uuid]);
    expect(await qmpbackup([...lab.vm, 'backup', '--level', 'auto', ...at])).toMatchObject(isRefused);
    const images = ['vda', 'vdb'].flatMap((disk) => ['--offline', `${disk}=${lab.fileOf(disk)}`]);
    await expectCli(0, ['backup', '--level', 'auto', ...at, '--vm-name', name, ...images]);
    const output = join(here.dir, 'restored');
    await expectCli(0, ['restore', ...at, '--output', output]);
    for (const disk of ['vda', 'vdb']) await compareImages(join(output, `${disk}.qcow2`), lab.fileOf(disk));
  });

  for (const leaving of [[], ['--undefinesource']]) {
    it(`goes on incrementally by the overlays that track it (${leaving.join() || 'its definition stays'})`, async () => {
      const vm = await overlaidDomain(here);
      const { name, uuid } = vm.domain;
      await vm.writeAll(1, 0x31);
      await vm.track('auto');
      await vm.writeAll(2, 0x32);
      await vm.track('inc');
      await vm.writeAll(3, 0x33);
      const socket = `unix://${join(here.dir, 'migration')}`;
      const persistent = ['migrate', '--live', '--unsafe', '--persistent', ...leaving];
      await here.virsh([...persistent, uuid, there.uri, '--migrateuri', socket]);

      const before = (await there.virsh(['dumpxml', uuid])).stdout;
      expect((await there.virsh(['dumpxml', '--inactive', uuid])).stdout).toMatch(/-vdb-[0-9a-f]{12}\.overlay/);
      const away = ['--connect', there.uri, '--domain', name];
      const asked = ['backup', '--target', vm.target, '--method', 'overlay', '--track', 'overlay'];
      const inc = [...away, ...asked, '--level', 'inc', '--overlay-dir', vm.overlays];
      const { point, warnings } = (await expectCli(0, ['--json', ...inc])).json<BackupAnswer>();
      expect(point).toMatchObject({ level: 'inc', number: 2 });
      for (const { changed } of point.disks) expect(changed).toBe(MiB);
      expect(warnings).toEqual([]);
      expect((await there.virsh(['dumpxml', uuid])).stdout).not.toBe(before);

      await expectCli(0, [...away, 'consolidate-source']);
      expect(await readdir(vm.overlays)).toEqual([]);
      await there.virsh(['destroy', uuid]);
      const output = join(here.dir, `restored-${name}`);
      await expectCli(0, ['restore', '--target', vm.target, '--output', output]);
      for (const disk of OVERLAID) await compareImages(join(output, `${disk}.qcow2`), vm.imageOf(disk));
      await there.virsh(['undefine', uuid]);
    });
  }

  it('is held while it is backed up: libvirt refuses the migration, and the guest goes on', async () => {
    const lab = await domainScenario(here);
    const { uuid } = lab.domain;
    const socket = `unix://${join(here.dir, 'migration')}`;
    const own = join(here.dir, 'own.xml');
    await writeFile(
      own,
      `<domainbackup mode='pull'><server transport='unix' socket='${join(here.dir, 'nbd')}'/></domainbackup>`,
    );
    await here.virsh(['backup-begin', uuid, own]);
    // virsh 9.0 was also seen to die of a signal there, so what counts is where the guest is.
    const migrate = ['migrate', '--live', '--unsafe', '--persistent', uuid, there.uri, '--migrateuri', socket];
    await expect(here.virsh(migrate)).rejects.toThrow();
    expect(await lab.domain.state()).toBe('running');
    expect((await there.virsh(['list', '--all', '--uuid'])).stdout).not.toContain(uuid);
    const { exitCode, stderr } = await qmpbackup([...lab.vm, 'backup', '--level', 'auto', '--target', lab.target]);
    expect([exitCode, stderr]).toEqual([11, expect.stringMatching(/busy with a pull backup[^]*^hint: /m) as string]);
    await here.virsh(['domjobabort', uuid]);
  });
});

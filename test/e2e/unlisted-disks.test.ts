import type { Warning } from '../../src/core/warning.js';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { MiB } from '../support/builders.js';
import { expectCli } from '../support/cli.js';
import { createImage } from '../support/lab/disk-images.js';
import { expectRefused, leavingNoTrace } from '../support/refusal.js';
import { afterTest, labDir, scenario, type Scenario, textsOf } from '../support/scenario.js';

/** Disks that `query-block` does not list, and devices that a fleeced run would end a QEMU with: seen, and said. */

/** One disk like any other, one that qemu-storage-daemon serves, and four pieces of memory, of which two are kept. */
async function withUnlisted(): Promise<Scenario> {
  const dir = await labDir();
  const socket = join(dir, 'vhost');
  await createImage({ file: join(dir, 'served.qcow2'), format: 'qcow2', size: 16 * MiB });
  const server = spawn('qemu-storage-daemon', [
    ...['--blockdev', `qcow2,node-name=v,file.driver=file,file.filename=${join(dir, 'served.qcow2')}`],
    ...['--export', `vhost-user-blk,id=e,node-name=v,writable=on,addr.type=unix,addr.path=${socket}`],
  ]);
  const ended = once(server, 'close');
  afterTest(async () => {
    server.kill('SIGKILL');
    await ended;
  });
  while (!existsSync(socket)) await sleep(20);
  for (const name of ['kept', 'private', 'constant', 'pmem']) await writeFile(join(dir, name), Buffer.alloc(16 * MiB));
  const memory = (name: string, more: string): string[] => [
    ...['-object', `memory-backend-file,id=${name},mem-path=${join(dir, name)},size=16M,${more}`],
  ];
  return scenario([{ id: 'd1' }], {
    args: [
      ...['-machine', 'nvdimm=on,memory-backend=ram', '-m', 'slots=4,maxmem=512M'],
      ...['-object', 'memory-backend-memfd,id=ram,size=64M,share=on'],
      ...['-chardev', `socket,id=vhost,path=${socket}`, '-device', 'vhost-user-blk-pci,chardev=vhost,id=served'],
      ...[...memory('kept', 'share=on'), '-device', 'nvdimm,memdev=kept,id=nv0'],
      ...[...memory('private', 'share=off'), '-device', 'nvdimm,memdev=private,id=nv1'],
      ...[...memory('constant', 'share=on,readonly=on'), '-device', 'nvdimm,memdev=constant,id=nv2,unarmed=on'],
      ...[...memory('pmem', 'share=on'), '-device', 'virtio-pmem-pci,memdev=pmem'],
    ],
  });
}

describe('disks that QEMU does not list among its block devices', () => {
  it('are in a warning of each point, in its JSON, and in what doctor and info say', async () => {
    const lab = await withUnlisted();
    const backup = ['--socket', lab.vm.socket, 'backup', '--level', 'auto', '--target', lab.target];
    const names = ['served', 'nv0', '/machine/peripheral-anon/device[0]'];
    const lacks = (words: string): string[] => words.match(/\S+(?= is not in the backup)/g) ?? [];
    const full = await expectCli(5, ['--quiet', ...backup, '--strict']);
    expect(lacks(full.stderr).toSorted()).toEqual(names.toSorted());
    expect(full.stderr).toMatch(/served .* another program serves it, and QEMU does not see its data/);
    const inc = await expectCli(5, ['--json', '--quiet', ...backup, '--strict']);
    expect(inc.stderr).toBe('');
    expect(lacks(textsOf(inc.json<{ warnings: Warning[] }>().warnings).join('\n')).toSorted()).toEqual(
      names.toSorted(),
    );

    await leavingNoTrace(lab, async () => {
      const words = [/--include served: a vhost-user disk/, /hint: Back it up where that program keeps its data/];
      await expectRefused(2, [...backup, '--include', 'served'], ...words);
    });
    const excluded = names.flatMap((name) => ['--exclude', name]);
    await expectCli(0, [...backup, '--strict', ...excluded]);

    const doctor = await expectCli(0, ['--socket', lab.vm.socket, 'doctor']);
    expect(doctor.stdout).toMatch(/served.*left out of backups: a vhost-user disk/);
    const info = await expectCli(0, ['--socket', lab.vm.socket, 'info']);
    for (const name of names) expect(info.stdout).toContain(`${name}: left out, `);
    expect(info.stdout).not.toMatch(/nv1|nv2/);
  });
});

describe('a disk on USB, whose SCSI device QEMU makes itself', () => {
  it('is asked for what it is, and backed up like any other', async () => {
    const dir = await labDir();
    const args = await Promise.all(
      ['u1', 'u2'].map(async (id) => {
        const file = join(dir, `${id}.qcow2`);
        await createImage({ file, format: 'qcow2', size: 16 * MiB });
        const device = id === 'u1' ? 'usb-storage,drive=u1,id=stick' : 'usb-storage,drive=u2';
        return ['-drive', `if=none,id=${id},file=${file},format=qcow2`, '-device', device];
      }),
    );
    const lab = await scenario([{ id: 'd1', size: 16 * MiB }], { args: ['-device', 'qemu-xhci', ...args.flat()] });
    const trace = ['--debug', '--json', '--socket', lab.vm.socket, 'backup', '--level', 'full', '--target', lab.target];
    const { stderr, stdout } = await expectCli(0, trace);
    expect(JSON.parse(stdout)).toMatchObject({ point: { disks: [{ disk: 'd1' }, { disk: 'u1' }, { disk: 'u2' }] } });
    for (const path of ['peripheral/stick/stick.0', 'peripheral-anon/device[1]/scsi.0']) {
      expect(stderr).toContain(`"/machine/${path}/legacy[0]","property":"type"`);
    }
    await lab.expectNothingLeft(1);
  });
});

describe('a disk whose device is throttled itself, in an iothread', () => {
  it('is fleeced like any other', async () => {
    const lab = await scenario([{ id: 'd1', iothread: 'io', throttle: { bytes: 64 * MiB } }]);
    await expectCli(0, ['--socket', lab.vm.socket, 'backup', '--target', lab.target, '--fleece', 'always']);
    await lab.expectNothingLeft(1);
  });
});

import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, describe, expect, it } from 'vitest';
import { levelsOf } from '../support/comparison.js';
import { MiB } from '../support/builders.js';
import { type CliResult, expectCli, qmpbackup } from '../support/cli.js';
import { type DomainScenario, domainScenario } from '../support/domain-scenario.js';
import { compareImages } from '../support/lab/compare.js';
import { createEncryptedImage, createImage } from '../support/lab/disk-images.js';
import { flush, write } from '../support/lab/guest-writes.js';
import type { DomainDisk } from '../support/lab/libvirt-domain.js';
import { hmp } from '../support/lab/monitor.js';
import { run } from '../support/lab/programs.js';
import { afterTest, type BackupAnswer, labDir, scenario } from '../support/scenario.js';
import { useLibvirt } from '../support/use-libvirt.js';

/**
 * Each writable disk is in the point or in a warning that names it. What mail tells is what somebody can act on: a lack,
 * and what a disk is like, at a chain's first point and when the set changes; the answer tells it at every run.
 */
const quietly = (args: readonly string[], ...more: string[]): Promise<CliResult> =>
  qmpbackup(['--quiet', '--json', ...args, ...more]);

describe('a VM over QMP with disks that are odd for good', () => {
  it('is backed up by cron without a word after the first time, and never with exit code 5', async () => {
    const luks = join(await labDir(), 'luks.qcow2');
    await createEncryptedImage(luks, 16 * MiB, 'open sesame');
    const twelve = Array.from({ length: 12 }, (_, index) => ({ id: `n${index}`, size: MiB }));
    const odd = [
      { id: 'raw', format: 'raw' as const, size: MiB },
      { id: 'old', compat: '0.10' as const, size: MiB },
      { id: 'vars', interface: 'pflash' as const, format: 'raw' as const, size: MiB },
    ];
    const lab = await scenario([...odd, ...twelve]);
    await lab.vm.stop();
    const encrypted = { id: 'luks', file: luks, options: { 'encrypt.format': 'luks', 'encrypt.key-secret': 'key' } };
    const args = ['-object', 'secret,id=key,data=open sesame'];
    await lab.restart({ disks: [...lab.vm.options.disks, encrypted], args });
    const vm = ['--socket', lab.vm.socket, 'backup', '--level', 'auto', '--allow-plaintext', '--strict'];
    const first = await quietly([...vm, '--target', lab.target]);
    expect(first.exitCode).toBe(0);
    for (const id of ['raw', 'old', 'vars', 'luks']) expect(first.stderr).toContain(`warning: ${id}: `);
    for (const lastOf of [2, 3]) {
      const next = await quietly([...vm, '--target', lab.target]);
      const { exitCode, stderr } = next;
      expect({ lastOf, exitCode, stderr }).toEqual({ lastOf, exitCode: 0, stderr: '' });
      expect(next.json<BackupAnswer & { standing: readonly string[] }>().standing).toHaveLength(4);
    }
  });
});

describe('what is no disk and belongs to the machine', () => {
  it('is said by info and doctor, and by no backup', async () => {
    const dir = await labDir();
    const socket = join(dir, 'tpm.sock');
    const tpm = spawn('swtpm', [
      'socket',
      '--tpm2',
      '--tpmstate',
      `dir=${dir}`,
      '--ctrl',
      `type=unixio,path=${socket}`,
    ]);
    afterTest(() => Promise.resolve(tpm.kill()));
    while (!existsSync(socket)) await sleep(20);
    const chip = ['-chardev', `socket,id=tpm,path=${socket}`, '-tpmdev', 'emulator,id=tpm0,chardev=tpm'];
    const lab = await scenario([{ id: 'd1' }], { args: [...chip, '-device', 'tpm-tis,tpmdev=tpm0'] });
    await hmp(lab.vm.control, 'savevm before');
    const vm = ['--socket', lab.vm.socket];
    for (const command of ['info', 'doctor']) {
      const { stdout } = await expectCli(0, [...vm, command]);
      expect(stdout).toMatch(/in no backup of it: what is in its memory/);
      expect(stdout).toMatch(/in no backup of it: the state of its TPM \(tpm0\)/);
      expect(stdout).toMatch(/in no backup of it: internal snapshots \(before\)/);
    }
    const { stderr } = await expectCli(0, [...vm, '--quiet', 'backup', '--level', 'auto', '--target', lab.target]);
    expect(stderr).toBe('');
  });
});

describe('a domain with disks that are left out by a rule', () => {
  const lab = useLibvirt();
  let odd: DomainScenario;
  beforeAll(async () => {
    const file = async (name: string, format: 'qcow2' | 'raw'): Promise<string> => {
      const path = join(lab.dir, 'images', name);
      await createImage({ file: path, format, size: 16 * MiB });
      return path;
    };
    const disks: DomainDisk[] = [
      { target: 'vda', file: await file('rule-a.qcow2', 'qcow2') },
      { target: 'vdb', file: await file('rule-b.raw', 'raw'), format: 'raw', xml: '<shareable/>' },
      { target: 'vdc', file: await file('rule-c.qcow2', 'qcow2'), xml: '<transient/>' },
      { target: 'hda', device: 'cdrom' },
    ];
    odd = await domainScenario(lab, { disks });
  });
  const backup = (...more: string[]): string[] => [
    ...odd.vm,
    'backup',
    '--level',
    'auto',
    '--target',
    odd.target,
    ...more,
  ];

  it('says so at the first point, in every answer and in the point, and with --strict by exit code 5', async () => {
    const first = await quietly(backup());
    expect(first.exitCode).toBe(0);
    expect(first.stderr).toMatch(
      /warning: vdb is not in the backup: shareable.*\n.*warning: vdc is not in .*transient/,
    );
    expect(first.stderr).not.toContain('hda');
    const second = await quietly(backup('--strict'));
    expect(second.stderr).toBe('');
    expect(second.exitCode).toBe(5);
    const { warnings, point } = second.json<BackupAnswer & { point: { lacks: readonly { disk: string }[] } }>();
    expect(warnings.map(({ text }) => text.split(' ')[0])).toEqual(['vdb', 'vdc']);
    expect(point.lacks.map(({ disk }) => disk)).toEqual(['vdb', 'vdc']);
    await odd.expectNothingLeft(2);
  });

  it('says it again when the set changes, and what the user leaves out is no warning', async () => {
    // vdb is his own word now.
    const changed = await quietly(backup('--strict', '--exclude', 'vdb'));
    expect(changed.stderr).toBe('');
    expect(changed.exitCode).toBe(5);
    const extra = join(lab.dir, 'images', 'rule-d.raw');
    await createImage({ file: extra, format: 'raw', size: MiB });
    await lab.virsh([
      'attach-disk',
      odd.domain.uuid,
      extra,
      'vdd',
      '--live',
      '--mode',
      'shareable',
      '--subdriver',
      'raw',
    ]);
    const { stderr } = await quietly(backup());
    expect(stderr).toContain('vdd is not in the backup: shareable');
    expect((await quietly(backup())).stderr).toBe('');
    await lab.virsh(['detach-disk', odd.domain.uuid, 'vdd', '--live']);
  });

  it('takes a shareable disk by --include, alone, and says what it costs', async () => {
    await write(odd.domain, 'vdb', { offset: MiB, length: MiB, pattern: 0x61 });
    const both = await expectCli(2, backup('--include', 'vda', '--include', 'vdb'));
    expect(both.stderr).toMatch(/--include vdb: shareable.*\n.*--include vdb/);
    const target = join(lab.dir, 'alone');
    const alone = [...odd.vm, 'backup', '--level', 'auto', '--target', target, '--include', 'vdb'];
    for (const time of [1, 2]) {
      const taken = await expectCli(0, ['--json', ...alone]);
      expect(levelsOf(taken.json<BackupAnswer>())).toEqual([time === 1 ? 'vdb full' : 'vdb inc by comparison']);
      if (time === 1) expect(taken.stderr).toContain('every backup reads the whole disk');
    }
    await flush(odd.domain, 'vdb');
    const output = join(lab.dir, 'alone-restored');
    await expectCli(0, ['restore', '--target', target, '--output', output]);
    await compareImages(join(output, 'vdb.qcow2'), odd.fileOf('vdb'));
  });

  it('takes a transient disk only while the domain is off', async () => {
    expect((await expectCli(2, backup('--include', 'vdc'))).stderr).toMatch(/transient.*\n.*off/);
    await odd.domain.destroy();
    const target = join(lab.dir, 'off');
    const args = [...odd.vm, 'backup', '--level', 'auto', '--target', target, '--include', 'vdc'];
    await expectCli(0, args);
    const output = join(lab.dir, 'off-restored');
    await expectCli(0, ['restore', '--target', target, '--output', output]);
    await compareImages(join(output, 'vdc.qcow2'), odd.fileOf('vdc'));
    await odd.domain.start();
  });

  it('knows an overlay of a domain that is off by its file name, and has every write of it', async () => {
    const made = await domainScenario(lab);
    await write(made.domain, 'vda', { offset: 0, length: MiB, pattern: 0x71 });
    await made.backup('full');
    await lab.virsh(['snapshot-create-as', made.domain.uuid, 'above', '--disk-only']);
    await write(made.domain, 'vda', { offset: 4 * MiB, length: MiB, pattern: 0x72 });
    await made.domain.destroy();
    const overlay = made.fileOf('vda').replace(/qcow2$/, 'above');
    await made.backup('auto', '--include', basename(overlay));
    const output = join(lab.dir, 'overlay-restored');
    await expectCli(0, ['restore', '--target', made.target, '--output', output]);
    await compareImages(join(output, 'vda.qcow2'), overlay);
    await run('qemu-io', ['-c', 'read -P 0x72 4M 1M', join(output, 'vda.qcow2')]);
  });
});

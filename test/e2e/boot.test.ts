import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { boot, endProcess, isAlive, recordIn, withMonitor } from '../support/booted.js';
import { photograph } from '../support/chains.js';
import { expectCli, startCli } from '../support/cli.js';
import { MiB } from '../support/builders.js';
import { compareImages } from '../support/lab/compare.js';
import { write } from '../support/lab/guest-writes.js';
import { hmp } from '../support/lab/monitor.js';
import { run } from '../support/lab/programs.js';
import { mountSmall } from '../support/mounts.js';
import { afterTest, labDir, type Scenario, scenario } from '../support/scenario.js';

/** Disks on three buses, one of them with a place of its own, a machine that is not the default, and a FULL and an INC of it. */
async function withPoints(): Promise<Scenario> {
  const lab = await scenario(
    [{ id: 'd1' }, { id: 'd2', via: 'blockdev', interface: 'scsi' }, { id: 'ide0-hd0', via: 'if', interface: 'ide' }],
    {
      uuid: '11111111-2222-3333-4444-555555555555',
      args: [
        ...['-machine', 'pc-i440fx-6.2', '-m', '96', '-smp', '2,maxcpus=4,sockets=2,cores=2', '-cpu', 'Nehalem'],
        ...[
          '-device',
          'VGA',
          '-device',
          'virtio-net-pci,mac=52:54:00:00:00:07,addr=0x9,netdev=net',
          '-netdev',
          'user,id=net',
        ],
      ],
    },
  );
  await write(lab.vm, 'd1', { offset: 0, length: 20 * MiB, pattern: 0x11 });
  await lab.backup('full');
  for (const disk of ['d1', 'd2', 'ide0-hd0'])
    await write(lab.vm, disk, { offset: 8 * MiB, length: MiB, pattern: 0x22 });
  await lab.backup('inc');
  await lab.vm.stop();
  return lab;
}

async function marksIn(target: string): Promise<readonly string[]> {
  return (await readdir(target)).filter((name) => name.startsWith('open-'));
}

async function hardwareIn(target: string): Promise<Record<string, unknown>> {
  const catalog = JSON.parse(await readFile(join(target, 'catalog.json'), 'utf8')) as {
    points: { machine: { hardware?: Record<string, unknown>; type: string; uuid: string; memory: number } }[];
  };
  const { hardware, type, uuid, memory } = catalog.points[0]?.machine ?? {};
  return { ...hardware, type, uuid, memory };
}

/** The files of the backup, without what comes and goes beside them. */
async function filesOf(target: string) {
  return Object.fromEntries([...Object.entries(await photograph(target))].filter(([name]) => !name.includes('open-')));
}

async function writeIn(vm: Parameters<typeof withMonitor>[0], node: string, command: string): Promise<void> {
  const device = node === 'd1' ? '/machine/peripheral/dev-d1/virtio-backend' : `/machine/peripheral/dev-${node}`;
  await withMonitor(vm, (client) => hmp(client, `qemu-io -d ${device} "${command}"`));
}

describe('boot', () => {
  it('starts the machine as it was recorded, a backup of which tells the same of it', async () => {
    const lab = await withPoints();
    const to = join(lab.dir, 'to');
    const before = await filesOf(lab.target);
    const vm = await boot(['--target', lab.target, '--to', to]);
    expect(vm).toMatchObject({ state: 'started', point: 'point 1', agent: null });
    expect(vm.disks.map(({ leans }) => leans)).toEqual([true, true, true]);
    const again = join(lab.dir, 'again');
    await expectCli(0, ['--socket', vm.monitor, 'backup', '--level', 'full', '--target', again]);
    const [was, is] = [await hardwareIn(lab.target), await hardwareIn(again)];
    const devices = (was.devices as { use: string }[]).filter(({ use }) => use !== 'network');
    expect(is).toEqual({ ...was, devices });
    expect(devices.map(({ use }) => use).toSorted()).toEqual(['controller', 'disk', 'disk', 'disk', 'display']);
    expect(await filesOf(lab.target)).toEqual(before);

    const shown = await expectCli(0, ['boot', '--target', lab.target, '--to', to]);
    expect(shown.stdout).toContain(`running already: point 1, pid ${vm.pid}`);
    expect(shown.stdout).toContain('-machine type=pc-i440fx-6.2');
    const refused = await expectCli(11, ['rebase', '--target', lab.target, '--disk', 'd1']);
    expect(refused.stderr).toContain(`boot of point 1 (pid ${vm.pid} on `);
    for (const [unheard, ...asked] of [
      ['--network as-recorded', '--network', 'as-recorded'],
      ['--agent', '--agent'],
      ['what is given after --', '--', '-vga', 'std'],
    ] as const) {
      const { stderr } = await expectCli(2, ['boot', '--target', lab.target, '--to', to, ...asked]);
      expect(stderr).toContain(`the VM runs already, without ${unheard} (pid ${vm.pid})`);
    }
    // A value may be called as an option is.
    for (const words of [['-daemonize'], ['-m', '96', '--incoming', 'defer']]) {
      const refusedWords = await expectCli(2, ['boot', '--target', lab.target, '--to', to, '--', ...words]);
      expect(refusedWords.stderr).toContain('does not go with boot');
      await expectCli(2, ['verify', '--boot', '--target', lab.target, '--', ...words]);
    }
    const other = await expectCli(11, ['boot', '--target', lab.target, '--point', '0', '--to', to]);
    expect(other.stderr).toContain('a VM of point 1 of');
    await endProcess(vm.pid);
    await expectCli(0, ['rebase', '--target', lab.target, '--disk', 'd1', '--dry-run']);
    const elsewhere = await expectCli(13, ['boot', '--target', lab.target, '--point', '0', '--to', to]);
    expect(elsewhere.stderr).toContain(`the overlays in ${to} are of point`);
  });

  it('starts a machine with a disk on USB, and with firmware that only the person can say where it is', async () => {
    const dir = await labDir();
    const code = join(dir, 'code.fd');
    await writeFile(code, Buffer.alloc(MiB));
    const flash = ['-drive', `if=pflash,unit=0,readonly=on,format=raw,file=${code}`];
    const lab = await scenario(
      [
        { id: 'stick', interface: 'usb' },
        { id: 'vars', interface: 'pflash', size: MiB, options: { unit: '1' } },
      ],
      {
        args: ['-machine', 'q35', ...flash],
      },
    );
    await lab.backup('full');
    await lab.vm.stop();
    const asked = ['--target', lab.target, '--to', join(lab.dir, 'to')];
    const refused = await expectCli(2, ['boot', ...asked]);
    expect(refused.stderr).toContain(`it was started with ${code}, and a backup does not say`);
    const unknown = await expectCli(1, ['boot', ...asked, '--', '-accel', 'tcg', ...flash, '-device', 'VGA,odd=1']);
    expect(unknown.stderr).toMatch(/'\.?VGA\.odd' not found|Property 'VGA\.odd' not found/);
    expect(unknown.stderr).not.toContain('apt install');
    const vm = await boot(asked, flash);
    const again = join(lab.dir, 'again');
    await expectCli(0, ['--socket', vm.monitor, 'backup', '--level', 'full', '--target', again]);
    const [was, is] = [await hardwareIn(lab.target), await hardwareIn(again)];
    expect(is.devices).toEqual(
      (was.devices as { use: string }[]).filter(({ use }) => use === 'disk' || use === 'controller'),
    );
    expect(is.pflash).toMatchObject([
      { unit: 0, disk: null, file: code, readOnly: true },
      { unit: 1, disk: 'vars' },
    ]);
  });

  it('keeps the disks of the VM when the tool is killed, and goes on streaming where it was', async () => {
    const lab = await withPoints();
    const to = join(lab.dir, 'to');
    const before = await filesOf(lab.target);
    const env = { TMPDIR: join(await labDir(), 't') };
    await mkdir(env.TMPDIR);
    const asked = ['--target', lab.target, '--to', to];
    const killed = startCli(['boot', ...asked, '--stream', '--rate-limit', '1M', '--', '-accel', 'tcg'], { env });
    afterTest(async () => endProcess((await recordIn(to)).owner.pid, 'SIGKILL'));
    await untilStreaming(to, killed);
    killed.kill('SIGKILL');
    await killed;
    const { pid } = (await recordIn(to)).owner;
    expect(isAlive(pid)).toBe(true);
    expect(await marksIn(lab.target)).toHaveLength(1);
    await writeIn({ monitor: join(to, 'monitor.sock') }, 'd1', 'write -P 0x33 4M 1M');
    const vm = await boot([...asked, '--stream'], [], env);
    expect(vm).toMatchObject({ state: 'already-running', pid });
    expect(vm.disks.map(({ leans }) => leans)).toEqual([false, false, false]);
    expect(await marksIn(lab.target)).toEqual([]);
    expect(await readdir(env.TMPDIR)).toEqual([]);
    expect(await filesOf(lab.target)).toEqual(before);
    await endProcess(pid);

    const { stdout } = await run('qemu-img', ['info', '--output=json', join(to, 'd1.qcow2')]);
    expect(JSON.parse(stdout)).not.toHaveProperty('backing-filename');
    await run('qemu-io', ['-c', 'write -P 0x33 4M 1M', join(lab.dir, 'd1.qcow2')]);
    for (const disk of ['d1', 'd2', 'ide0-hd0']) {
      await compareImages(join(to, `${disk}.qcow2`), join(lab.dir, `${disk}.qcow2`));
    }
    // It needs the backup no more: neither for a start by us, nor by its own script.
    await writeFile(join(lab.target, 'd1', (await readdir(join(lab.target, 'd1')))[0] ?? ''), 'gone');
    const alone = await boot(asked, [], env);
    expect(alone.disks.map(({ leans }) => leans)).toEqual([false, false, false]);
    expect(await readdir(env.TMPDIR)).toEqual([]);
    await endProcess(alone.pid);
  });

  it('says that its folder may not take what is copied, and goes on when there is space', async () => {
    const lab = await withPoints();
    const to = join(lab.dir, 'to');
    await mountSmall(to, 8 * MiB);
    const asked = ['--target', lab.target, '--to', to];
    const short = await expectCli(1, ['boot', ...asked, '--stream', '--', '-accel', 'tcg']);
    const { pid } = (await recordIn(to)).owner;
    afterTest(() => endProcess(pid, 'SIGKILL'));
    expect(short.stderr).toMatch(/to has \d.* free, and what is copied of point 1 may take up to 2\d\.\d MiB/);
    expect(short.stderr).toMatch(/d1 could not be copied: No space left on device[^]*The VM runs on/);
    expect((await boot(asked)).disks.map(({ leans }) => leans)).toContain(true);
    await run('mount', ['-o', 'remount,size=200M', to]);
    const freed = await boot([...asked, '--stream']);
    expect(freed).toMatchObject({ state: 'already-running', pid });
    expect(freed.disks.map(({ leans }) => leans)).toEqual([false, false, false]);
    await endProcess(pid);
    for (const disk of ['d1', 'd2', 'ide0-hd0'])
      await compareImages(join(to, `${disk}.qcow2`), join(lab.dir, `${disk}.qcow2`));
  });

  it('starts a VM that was killed again from its overlays, with what it had written', async () => {
    const lab = await withPoints();
    const to = join(lab.dir, 'to');
    const asked = ['--target', lab.target, '--to', to];
    const first = await boot(asked);
    await writeIn(first, 'd1', 'write -P 0x44 1M 1M');
    await writeIn(first, 'd1', 'flush');
    await endProcess(first.pid, 'SIGKILL');
    // A newer point: the overlays stay above theirs.
    await lab.restart();
    await write(lab.vm, 'd1', { offset: 0, length: MiB, pattern: 0x55 });
    await lab.backup('auto');
    const second = await boot([...asked, '--stream']);
    expect(second).toMatchObject({ state: 'started', point: 'point 1' });
    expect(second.pid).not.toBe(first.pid);
    expect(await marksIn(lab.target)).toEqual([]);
    await endProcess(second.pid);
    const image = join(to, 'd1.qcow2');
    await run('qemu-io', ['-c', 'read -P 0x11 0 1M', '-c', 'read -P 0x44 1M 1M', '-c', 'read -P 0x22 8M 1M', image]);
  });

  it('says in the words of QEMU why it does not start, and leaves nothing but overlays', async () => {
    const lab = await withPoints();
    const env = { TMPDIR: join(await labDir(), 't'), NO_COLOR: '1' };
    await mkdir(env.TMPDIR);
    const to = join(lab.dir, 'to');
    const asked = ['boot', '--target', lab.target, '--to', to];
    const failed = await expectCli(1, [...asked, '--', '-accel', 'tcg', '-device', 'no-such-device'], { env });
    expect(failed.stderr).toContain("'no-such-device' is not a valid device model name");
    expect(await readdir(env.TMPDIR)).toEqual([]);
    expect(await marksIn(lab.target)).toEqual([]);
    expect(isAlive((await recordIn(to)).owner.pid)).toBe(false);
    for (const [words, more] of [
      ['is no option of QEMU', ['disk.img']],
      ['-daemonize does not go with boot', ['-daemonize']],
    ] as const) {
      expect((await expectCli(2, [...asked, '--', ...more])).stderr).toContain(words);
    }
    expect((await expectCli(13, ['boot', '--target', lab.target, '--to', lab.target])).stderr).toContain(
      'is the target of backups',
    );
    const vm = await boot(['--target', lab.target, '--to', to, '--network', 'as-recorded'], ['-name', 'other']);
    expect(vm.commandLine.join(' ')).toContain('mac=52:54:00:00:00:07,netdev=qmpbackup-net0');
  });

  it('starts a point of before the machine was recorded, and says what is missing', async () => {
    const lab = await withPoints();
    const path = join(lab.target, 'catalog.json');
    const catalog = JSON.parse(await readFile(path, 'utf8')) as { points: { machine: Record<string, unknown> }[] };
    for (const { machine } of catalog.points) delete machine.hardware;
    await writeFile(path, JSON.stringify(catalog));
    const told = await expectCli(0, [
      'boot',
      '--target',
      lab.target,
      '--to',
      join(lab.dir, 'to'),
      '--',
      '-accel',
      'tcg',
    ]);
    afterTest(async () => endProcess((await recordIn(join(lab.dir, 'to'))).owner.pid, 'SIGKILL'));
    expect(told.stderr).toContain('the CPU model is not recorded');
    expect(told.stderr).toContain(
      'the device of d1 is not recorded: it is virtio-blk-pci (else: -- -device DRIVER,drive=d1)',
    );
    expect(told.stderr).toContain('the device of ide0-hd0 is not recorded: it is ide-hd');
    // As a point of a libvirt domain has one.
    const ofDomain = catalog.points.map((each) => ({
      ...each,
      definition: { files: [], autostart: null, missing: [] },
    }));
    await writeFile(path, JSON.stringify({ ...catalog, points: ofDomain }));
    const domain = await expectCli(13, ['boot', '--target', lab.target, '--to', join(lab.dir, 'domain')]);
    expect(domain.stderr).toContain('point 1 does not have the definition of its domain');
    const unknown = join(lab.dir, 'unknown');
    for (const { machine } of catalog.points) machine.memory = null;
    await writeFile(path, JSON.stringify(catalog));
    const refused = await expectCli(2, ['boot', '--target', lab.target, '--to', unknown]);
    expect(refused.stderr).toContain('how much memory the VM had is not recorded');
    const vm = await boot(['--target', lab.target, '--to', unknown], ['-m', '64', '-device', 'ide-hd,drive=d1']);
    expect(vm.commandLine.filter((word) => word.includes('drive=d1'))).toEqual(['ide-hd,drive=d1']);
  });
});

async function untilStreaming(folder: string, tool: ReturnType<typeof startCli>): Promise<void> {
  for (;;) {
    const log = await readFile(join(folder, 'boot.json'), 'utf8').catch(() => '');
    // The tool holds the monitor: that it is at work is seen in the overlay, which grows.
    const { stdout } = await run('du', ['-k', join(folder, 'd1.qcow2')], { allowed: [0, 1] });
    if (log !== '' && Number(stdout.split('\t')[0]) > 3 * 1024) return;
    if (tool.exitCode !== null && tool.exitCode !== undefined) throw new Error('it ended before it was seen to copy');
    await sleep(50);
  }
}

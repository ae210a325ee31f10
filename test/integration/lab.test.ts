/** The lab itself: what every other integration and e2e test stands on must do what it says. */
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { run as qmp } from '../../src/qmp/commands.js';
import {
  checkFs,
  checkFsAfterReplay,
  checkWrittenFiles,
  compareImages,
  fileChecksums,
  readCounter,
} from '../support/lab/compare.js';
import { createCounterDisk, createImage, makeExt4 } from '../support/lab/disk-images.js';
import { discard, expectPattern, flush, startWrite, write, writeZeroes } from '../support/lab/guest-writes.js';
import { makeLabDir, run } from '../support/lab/programs.js';
import { type Disk, type GuestVm, startQemu, type Vm } from '../support/lab/qemu.js';

const MIB = 1024 * 1024;

let dir = '';
beforeEach(async () => {
  dir = await makeLabDir();
});
afterEach(async () => {
  await rm(dir, { recursive: true, force: true });
});

describe('guest-less writes', () => {
  let vm: Vm | undefined;
  afterEach(async () => {
    await vm?.kill();
    vm = undefined;
  });

  const disks = (): Disk[] => [
    { id: 'drive-virtio', file: join(dir, 'a.qcow2') },
    { id: 'drive-raw', file: join(dir, 'b.raw'), format: 'raw', interface: 'scsi' },
    { id: 'ide0-hd0', file: join(dir, 'c.qcow2'), interface: 'ide', via: 'if' },
    { id: 'node-virtio', file: join(dir, 'd.qcow2'), via: 'blockdev', device: 'vd1' },
    { id: 'node-scsi', file: join(dir, 'e, with a comma.qcow2'), via: 'blockdev', interface: 'scsi' },
    { id: 'node-ide', file: join(dir, 'f.raw'), format: 'raw', via: 'blockdev', interface: 'ide' },
    { id: 'node-slow', file: join(dir, 'g.qcow2'), via: 'blockdev', throttle: { bytes: 512 * MIB } },
    { id: 'drive-slow', file: join(dir, 'h.qcow2'), throttle: { bytes: 512 * MIB } },
    { id: 'pflash0', file: join(dir, 'i.raw'), format: 'raw', interface: 'pflash' },
  ];
  const create = async (all: readonly Disk[]): Promise<void> => {
    for (const { file, format = 'qcow2', interface: bus } of all) {
      if (file !== undefined) await createImage({ file, format, size: bus === 'pflash' ? 4 * MIB : 32 * MIB });
    }
  };

  it('land in the image, for every way to attach a disk', async () => {
    const all = disks();
    await create(all);
    const empty: Disk[] = [
      { id: 'cd', media: 'cdrom', interface: 'ide' },
      { id: 'cd2', media: 'cdrom', interface: 'scsi', via: 'blockdev' },
    ];
    vm = await startQemu({ dir, disks: [...all, ...empty], name: 'lab', monitors: { tcp: true } });
    expect(vm.tcpPort).toBeGreaterThan(0);
    for (const { id } of all) {
      await write(vm, id, { offset: MIB, length: MIB, pattern: 0x11 });
      await expectPattern(vm, id, { offset: MIB, length: MIB, pattern: 0x11 });
      await expect(expectPattern(vm, id, { offset: 0, length: MIB, pattern: 0x11 })).rejects.toThrow(/is not all/);
      await flush(vm, id);
    }
    await expect(vm.stop()).resolves.toEqual({ code: 0, signal: null });
    for (const { file, format = 'qcow2' } of all) {
      const read = ['-f', format, '-r', '-c', 'read -P 0x11 1M 1M', '-c', 'read -P 0 0 1M', file!];
      expect((await run('qemu-io', read)).stdout).not.toContain('Pattern verification failed');
    }
  });

  it('are verified: a write past the end of the disk throws', async () => {
    const [disk] = disks();
    await create([disk!]);
    vm = await startQemu({ dir, disks: [disk!] });
    await expect(write(vm, disk!.id, { offset: 32 * MIB, length: MIB, pattern: 1 })).rejects.toThrow(/write failed/);
  });

  it('zeroes and discards read as zeros and free the space', async () => {
    const [disk] = disks();
    await create([disk!]);
    vm = await startQemu({ dir, disks: [disk!] });
    await write(vm, disk!.id, { offset: 0, length: 32 * MIB, pattern: 0x55 });
    await writeZeroes(vm, disk!.id, { offset: 0, length: 16 * MIB });
    await discard(vm, disk!.id, { offset: 16 * MIB, length: 16 * MIB });
    await expectPattern(vm, disk!.id, { offset: 0, length: 32 * MIB, pattern: 0 });
    await vm.stop();
    const other = join(dir, 'zeros.raw');
    await createImage({ file: other, format: 'raw', size: 32 * MIB });
    await compareImages(disk!.file!, other);
    await run('qemu-io', ['-f', 'raw', '-c', 'write -P 1 5M 1', other]);
    await expect(compareImages(disk!.file!, other)).rejects.toThrow(/differ/);
  });

  it('can be started and awaited later, while a throttle holds them up', async () => {
    const slow: Disk = { id: 'slow', file: join(dir, 'a.qcow2'), throttle: { bytes: 4 * MIB } };
    await create([slow]);
    vm = await startQemu({ dir, disks: [slow] });
    await write(vm, 'slow', { offset: 0, length: 4 * MIB, pattern: 1 });
    let done = false;
    const { finished } = await startWrite(vm, 'slow', { offset: 8 * MIB, length: 2 * MIB, pattern: 2 });
    void finished.then(() => (done = true));
    await vm.control.execute('query-status');
    expect(done).toBe(false);
    await finished;
    await expectPattern(vm, 'slow', { offset: 8 * MIB, length: 2 * MIB, pattern: 2 });
  });

  it('kill ends the process at once, and the same options start it again', async () => {
    const [disk] = disks();
    await create([disk!]);
    vm = await startQemu({ dir, disks: [disk!] });
    await expect(vm.kill()).resolves.toEqual({ code: null, signal: 'SIGKILL' });
    vm = await startQemu(vm.options);
    await write(vm, disk!.id, { offset: 0, length: MIB, pattern: 3 });
  });

  it('a QEMU that refuses its command line says so', async () => {
    await expect(startQemu({ dir, disks: [{ id: 'a', file: join(dir, 'missing') }] })).rejects.toThrow(/missing/);
  });
});

describe('the guest', () => {
  let guestDir = '';
  let vm: GuestVm;
  let disks: Disk[] = [];

  beforeAll(async () => {
    guestDir = await makeLabDir();
    const file = (name: string): string => join(guestDir, name);
    await makeExt4({ file: file('d1.qcow2'), format: 'qcow2', size: 64 * MIB, label: 'DATA1' });
    await makeExt4({ file: file('d2.raw'), format: 'raw', size: 64 * MIB, label: 'DATA2' });
    await createCounterDisk({ file: file('c1.qcow2'), format: 'qcow2', number: 1 });
    await createCounterDisk({ file: file('c2.raw'), format: 'raw', number: 2 });
    disks = [
      { id: 'd1', file: file('d1.qcow2') },
      { id: 'd2', file: file('d2.raw'), format: 'raw', via: 'blockdev', interface: 'scsi' },
      { id: 'ide0-hd0', file: file('c1.qcow2'), via: 'if', interface: 'ide' },
      { id: 'c2', file: file('c2.raw'), format: 'raw', via: 'blockdev' },
    ];
    vm = await startQemu({ dir: guestDir, disks, name: 'guest', guest: { workload: ['writer', 'counter'] } });
    await vm.guest.waitForWorkload('writer');
    await vm.guest.waitForWorkload('counter');
  });
  afterAll(async () => {
    await vm?.kill();
    await rm(guestDir, { recursive: true, force: true });
  });

  it('mounts its data disks by label and starts the real agent', async () => {
    const mounts = await vm.guest.run('cat /proc/mounts');
    expect(mounts).toMatch(/ \/mnt\/d1 ext4 /);
    expect(mounts).toMatch(/ \/mnt\/d2 ext4 /);
    await expect(vm.guest.agent('guest-info')).resolves.toHaveProperty('version');
    await expect(vm.guest.agentExec('/bin/uname', ['-s'])).resolves.toEqual({
      status: 0,
      stdout: 'Linux\n',
      stderr: '',
    });
    expect(await readFile(join(guestDir, 'console.log'), 'utf8')).not.toContain('lab:');
  });

  it('gives the exit status and both outputs of a command, and runs commands side by side', async () => {
    const slow = vm.guest.run('sleep 2; echo slow');
    await expect(vm.guest.tryRun('echo out; echo err >&2; exit 3')).resolves.toEqual({
      status: 3,
      stdout: 'out\n',
      stderr: 'err\n',
    });
    await expect(vm.guest.run('false')).rejects.toThrow(/exit 1/);
    expect((await vm.guest.run('dd if=/dev/zero bs=1M count=1 2>/dev/null')).length).toBe(MIB);
    await expect(slow).resolves.toBe('slow\n');
  });

  it('is frozen and thawed by the agent; the control port answers meanwhile', async () => {
    await expect(vm.guest.agent('guest-fsfreeze-freeze')).resolves.toBe(2);
    await expect(vm.guest.agent('guest-fsfreeze-status')).resolves.toBe('frozen');
    await expect(vm.guest.isFrozen('/mnt/d2')).resolves.toBe(true);
    const stuck = vm.guest.run('touch /mnt/d1/after-thaw; echo written');
    const first = await vm.guest.run('wc -l </mnt/d1/written/manifest; sleep 1; wc -l </mnt/d1/written/manifest');
    const [before, after] = first.trim().split('\n');
    expect(after).toBe(before);
    // Frozen file systems are clean on disk, as a point taken now must be.
    for (const { id, file } of disks.slice(0, 2)) {
      await flush(vm, id);
      await checkFs(file!);
      expect((await checkWrittenFiles(file!)).matched).toBeGreaterThan(0);
    }
    await expect(vm.guest.agent('guest-fsfreeze-thaw')).resolves.toBe(2);
    await expect(stuck).resolves.toBe('written\n');
    await expect(vm.guest.agent('guest-fsfreeze-status')).resolves.toBe('thawed');
    await expect(vm.guest.isFrozen('/mnt/d2')).resolves.toBe(false);
  });

  it('holds a file system still without the agent, which can then still freeze', async () => {
    await vm.guest.holdStill('/mnt/d1');
    await expect(vm.guest.agent('guest-fsfreeze-status')).resolves.toBe('thawed');
    await vm.guest.letGo('/mnt/d1');
  });

  it('pauses and resumes the workloads', async () => {
    await vm.guest.pauseWorkload();
    await vm.control.execute('block-dirty-bitmap-add', { node: 'c2', name: 'idle' });
    await vm.control.execute('block-dirty-bitmap-add', { node: 'd2', name: 'idle' });
    const before = await vm.guest.fileChecksums('/mnt/d1');
    await vm.guest.fileChecksums('/mnt/d2');
    expect(before.size).toBeGreaterThan(1);
    await sleep(6_000);
    const nodes = await qmp(vm.control, 'query-named-block-nodes', {});
    const idle = nodes.flatMap((node) => node['dirty-bitmaps'] ?? []).filter(({ name }) => name === 'idle');
    expect(idle.map(({ count }) => count)).toEqual([0, 0]);
    expect(await vm.guest.fileChecksums('/mnt/d1')).toEqual(before);
    await flush(vm, 'd1');
    // The mounted file system has the files on disk already; its journal may hold the last of it.
    const onDisk = await fileChecksums(disks[0]!.file!);
    expect([...onDisk.keys()]).toContain('written/manifest');
    await vm.guest.resumeWorkload();
    await vm.guest.run(`n=$(wc -l </mnt/d1/written/manifest)
      until [ "$(wc -l </mnt/d1/written/manifest)" -gt "$n" ]; do usleep 50000; done`);
  });

  it('a power cut leaves a file system that its journal repairs, and counters at most one apart', async () => {
    await vm.kill();
    await expect(checkFs(disks[1]!.file!)).rejects.toThrow(/journal/);
    await checkFsAfterReplay(disks[1]!.file!);
    const [first, second] = [await readCounter(disks[2]!.file!), await readCounter(disks[3]!.file!)];
    expect(first).toBeGreaterThan(0);
    expect([first, first - 1]).toContain(second);
  });

  it('boots again and a power-down leaves clean file systems and the files the guest had', async () => {
    const started = Date.now();
    vm = await startQemu({ dir: guestDir, disks, guest: true });
    expect(Date.now() - started).toBeLessThan(30_000);
    await vm.guest.startWorkload('writer');
    await vm.guest.run(
      'echo hello >"/mnt/d1/a file"; mkdir /mnt/d2/sub; head -c 3000000 /dev/urandom >/mnt/d2/sub/big',
    );
    await vm.guest.pauseWorkload();
    const had = [await vm.guest.fileChecksums('/mnt/d1'), await vm.guest.fileChecksums('/mnt/d2')];
    await expect(vm.powerdown()).resolves.toEqual({ code: 0, signal: null });
    for (const [index, { file }] of disks.slice(0, 2).entries()) {
      await checkFs(file!);
      expect(await fileChecksums(file!)).toEqual(had[index]);
      expect(await checkWrittenFiles(file!)).toMatchObject({ inFlux: 0 });
    }
  });
});

import { execa } from 'execa';
import { once } from 'node:events';
import { mkdir, readdir, readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, describe, expect, it } from 'vitest';
import { MiB } from '../support/builders.js';
import { ensureBuilt } from '../support/built.js';
import { expectCli, PROGRAM, startCli } from '../support/cli.js';
import { crashCli } from '../support/crash-point.js';
import { compareImages } from '../support/lab/compare.js';
import { flush, write, writeZeroes } from '../support/lab/guest-writes.js';
import { run } from '../support/lab/programs.js';
import { mountHanging, mountSmall } from '../support/mounts.js';
import { patient } from '../support/patience.js';
import { startRun } from '../support/running-backup.js';
import { labDir, type Scenario, scenario } from '../support/scenario.js';

/** The disks of a VM as one tar on stdout, at one instant, while the guest goes on; nothing is stored here. */
beforeAll(ensureBuilt, patient(180_000));

const THREE = [
  { id: 'd1', size: 24 * MiB },
  { id: 'd2', size: 16 * MiB, format: 'raw' as const },
  { id: 'd3', size: 8 * MiB + 512, via: 'blockdev' as const },
];

async function filled(): Promise<Scenario> {
  const lab = await scenario(THREE);
  for (const [index, { id, size }] of THREE.entries()) {
    await write(lab.vm, id, { offset: 0, length: 3 * MiB, pattern: index + 1 });
    await write(lab.vm, id, { offset: size - 70_000 - (size % 512), length: 65_536, pattern: index + 17 });
    await writeZeroes(lab.vm, id, { offset: MiB, length: 200_000 });
  }
  return lab;
}

/** Raw copies of the disks as they are now. */
async function freezeCopies(lab: Scenario): Promise<Readonly<Record<string, string>>> {
  const copies: Record<string, string> = {};
  for (const { id, file, format = 'qcow2' } of lab.vm.options.disks) {
    await flush(lab.vm, id);
    copies[id] = join(lab.dir, `${id}.copy`);
    await run('qemu-img', ['convert', '-U', '-f', format, '-O', 'raw', file ?? '', copies[id]]);
  }
  return copies;
}

const streaming = (lab: Scenario, ...more: readonly string[]): string[] => [
  ...['--socket', lab.vm.socket, 'backup', '--level', 'copy', '--output', '-', ...more],
];

function started(lab: Scenario) {
  return execa(process.execPath, [PROGRAM, ...streaming(lab)], { reject: false, buffer: false, encoding: 'buffer' });
}

/** What is left of a run that should leave nothing: here and in the VM. */
async function expectNothing(lab: Scenario): Promise<void> {
  await lab.expectNothingLeft(0);
  expect((await readdir(lab.dir, { recursive: true })).filter((name) => name.includes('.scratch'))).toEqual([]);
}

describe('a copy as raw images', () => {
  const names = ['d1.raw', 'd2.raw', 'd3.raw', 'machine.json'];

  async function expectImages(lab: Scenario, folder: string, copies: Readonly<Record<string, string>>): Promise<void> {
    expect((await readdir(folder)).toSorted()).toEqual(names);
    for (const { id, size } of THREE) {
      const path = join(folder, `${id}.raw`);
      await compareImages(path, copies[id] ?? '');
      expect((await stat(path)).size).toBe(size);
      expect((await stat(path)).blocks * 512).toBeLessThan(4 * MiB);
    }
    const left = (await readdir(lab.dir)).filter((name) => name.includes('.partial'));
    expect(left).toEqual([]);
  }

  it(
    'lies in a folder, of a VM that runs and of one that is off, and is no point',
    async () => {
      const lab = await filled();
      const copies = await freezeCopies(lab);
      await lab.backup('full');
      const folder = join(lab.dir, 'raw');
      const copy = ['backup', '--level', 'copy', '--format', 'raw', '--output'];
      const { stdout } = await expectCli(0, ['--socket', lab.vm.socket, ...copy, folder]);
      expect(stdout).toContain(`raw copy in ${folder}`);
      await expectImages(lab, folder, copies);
      for (const verb of ['list', 'verify']) {
        const { stderr } = await expectCli(10, [verb, '--target', folder]);
        expect(stderr).toContain('no backup');
      }
      // Nothing is written over, and a folder that is there is filled only if it is empty.
      await expectCli(13, ['--socket', lab.vm.socket, ...copy, folder]);
      await expectImages(lab, folder, copies);
      expect((await lab.backup('inc')).point.level).toBe('inc');
      await lab.expectNothingLeft(2);
      const { disks } = lab.vm.options;
      await lab.vm.stop();
      const images = disks.flatMap(({ id, file, format = 'qcow2' }) => ['--offline', `${id}=${format}:${file}`]);
      const off = join(lab.dir, 'off');
      await mkdir(off);
      await expectCli(0, [...copy, off, ...images]);
      await expectImages(lab, off, copies);
    },
    patient(120_000),
  );

  it(
    'of a run that was killed is made anew, and of one that finds no space nothing is left',
    async () => {
      const lab = await filled();
      const copies = await freezeCopies(lab);
      const folder = join(lab.dir, 'raw');
      const copy = ['--socket', lab.vm.socket, 'backup', '--level', 'copy', '--format', 'raw', '--output'];
      for (const matches of [/d2\.raw/, /machine\.json/]) {
        await crashCli({ when: 'after', call: 'open', matches }, [...copy, folder]);
        expect((await readdir(lab.dir)).filter((name) => name.startsWith('raw'))).toEqual(['raw.partial']);
      }
      await expectCli(0, [...copy, folder]);
      await expectImages(lab, folder, copies);
      const small = join(lab.dir, 'small');
      const space = await mountSmall(small, 24 * MiB);
      await space.fillBut(4 * MiB);
      await expectCli(13, [...copy, join(small, 'raw'), '--reserve', '0']);
      await expectCli(1, [...copy, join(small, 'raw'), '--reserve', '0', '--force']);
      expect(await readdir(small)).toEqual(['somebody-else']);
      await expectNothing(lab);
    },
    patient(120_000),
  );

  it('is refused with what it has no place for', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    const base = ['--socket', lab.vm.socket, 'backup', '--format', 'raw'];
    const folder = join(lab.dir, 'raw');
    for (const more of [
      ['--target', folder],
      ['--level', 'copy', '--target', folder],
      ['--level', 'full', '--output', folder],
      ['--level', 'copy', '--output', folder, '--target', folder],
      ['--level', 'copy', '--output', folder, '--verify'],
    ]) {
      await expectCli(2, [...base, ...more]);
    }
    expect(await readdir(lab.dir)).not.toContain('raw');
  });
});

describe('a copy as raw images on a file system that hangs', () => {
  const copyInto = (lab: Scenario, folder: string, ...more: readonly string[]): string[] => [
    ...['--socket', lab.vm.socket, 'backup', '--level', 'copy', '--format', 'raw', '--output', folder],
    ...['--stall-timeout', '2', ...more],
  ];

  it(
    'ends when it hangs in the middle, the guest unharmed, and is made anew later',
    async () => {
      const lab = await filled();
      const mount = join(await labDir(), 'share');
      const share = await mountHanging(mount);
      const folder = join(mount, 'raw');
      for (const end of ['by itself', 'SIGTERM'] as const) {
        const run = startRun(copyInto(lab, folder, '--speed-limit', '1M'));
        const names = (): Promise<readonly string[]> => readdir(`${folder}.partial`).catch(() => []);
        await expect.poll(names, { timeout: patient(60_000) }).toContain('d1.raw');
        share.hang();
        if (end === 'SIGTERM') process.kill(run.pid, 'SIGTERM');
        await write(lab.vm, 'd1', { offset: 100_000, length: MiB, pattern: 0xee });
        const { exitCode, stderr } = await run.ended;
        if (end === 'SIGTERM') expect(exitCode).toBe(143);
        else {
          expect(exitCode).toBe(1);
          expect(stderr).toMatch(/the target \S+\/raw hangs: its file system has not answered for 2 s/);
        }
        await expectNothing(lab);
        share.answer();
        const copies = await freezeCopies(lab);
        await expectCli(0, copyInto(lab, folder));
        for (const { id } of THREE) await compareImages(join(folder, `${id}.raw`), copies[id] ?? '');
        expect(await readdir(mount)).toEqual(['raw']);
        await rm(folder, { recursive: true });
      }
    },
    patient(180_000),
  );

  it(
    'is refused before anything is changed where it hangs from the beginning',
    async () => {
      const lab = await filled();
      const mount = join(await labDir(), 'share');
      const share = await mountHanging(mount);
      share.hang();
      const { stderr } = await expectCli(1, copyInto(lab, join(mount, 'raw')));
      expect(stderr).toMatch(/does not answer: its file system said nothing for 2 s[^]*Nothing was changed/);
      await expectNothing(lab);
      share.answer();
      expect(await readdir(mount)).toEqual([]);
    },
    patient(120_000),
  );

  it('that is mounted at the folder itself is refused', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    const mount = join(lab.dir, 'stick');
    await mountSmall(mount, 100 * MiB);
    const { stderr } = await expectCli(13, copyInto(lab, mount));
    expect(stderr).toMatch(/is where a file system is mounted[^]*stick\/copy/);
    expect(await readdir(mount)).toEqual([]);
    await expectCli(0, copyInto(lab, join(mount, 'copy'), '--reserve', '0'));
    expect(await readdir(lab.dir)).not.toContain('stick.partial');
  });
});

describe('a stream', () => {
  it(
    'is what the disks were at the instant, with holes',
    async () => {
      const lab = await filled();
      const copies = await freezeCopies(lab);
      const archive = join(lab.dir, 'vm.tar');
      const streamed = execa('bash', [
        '-c',
        `${process.execPath} ${PROGRAM} ${streaming(lab, '--json').join(' ')} >${archive}`,
      ]);
      const { stderr } = await streamed;
      const answer = JSON.parse(stderr.slice(stderr.indexOf('{\n'))) as {
        point: { consistency: string };
        target: string;
      };
      expect(answer).toMatchObject({ target: '-', point: { consistency: 'crash' } });
      {
        const folder = join(lab.dir, 'unpacked');
        await mkdir(folder);
        await run('tar', ['-C', folder, '-xf', archive]);
        expect((await readdir(folder)).toSorted()).toEqual(['d1.raw', 'd2.raw', 'd3.raw', 'machine.json']);
        for (const { id, size } of THREE) {
          const path = join(folder, `${id}.raw`);
          await compareImages(path, copies[id] ?? '');
          expect((await stat(path)).size).toBe(size);
          expect((await stat(path)).blocks * 512).toBeLessThan(4 * MiB);
        }
        const machine = JSON.parse(await readFile(join(folder, 'machine.json'), 'utf8')) as { disks: unknown[] };
        expect(machine.disks).toHaveLength(3);
      }
      await expectNothing(lab);
    },
    patient(120_000),
  );

  it(
    'is that instant whatever the guest writes while a slow reader takes it',
    async () => {
      const lab = await filled();
      const copies = await freezeCopies(lab);
      const folder = join(lab.dir, 'slow');
      await mkdir(folder);
      const program = started(lab);
      await once(program.stdout, 'readable');
      // The instant has passed; the pipe is full, and nobody reads.
      for (const { id } of THREE) {
        await write(lab.vm, id, { offset: 100_000, length: 2 * MiB, pattern: 0xee });
        await writeZeroes(lab.vm, id, { offset: 2 * MiB + 100_000, length: 300_000 });
        await write(lab.vm, id, { offset: 5 * MiB, length: MiB, pattern: 0xee });
      }
      await sleep(1_000);
      const tar = execa('tar', ['-C', folder, '-xf', '-']);
      program.stdout.pipe(tar.stdin);
      await tar;
      expect((await program).exitCode).toBe(0);
      for (const { id } of THREE) await compareImages(join(folder, `${id}.raw`), copies[id] ?? '');
      await expectNothing(lab);
    },
    patient(120_000),
  );

  it(
    'whose reader dies ends with 1, and one that is interrupted ends, and neither leaves anything',
    async () => {
      const lab = await filled();
      const gone = started(lab);
      await once(gone.stdout, 'readable');
      gone.stdout.destroy();
      expect((await gone).exitCode).toBe(1);
      await expectNothing(lab);
      const interrupted = started(lab);
      await once(interrupted.stdout, 'readable');
      process.kill(interrupted.pid!, 'SIGTERM');
      expect((await interrupted).exitCode).toBe(143);
      await expectNothing(lab);
      // One that is killed leaves the guest running, and what it had in the VM goes with the next run.
      const killed = started(lab);
      await once(killed.stdout, 'readable');
      process.kill(killed.pid!, 'SIGKILL');
      await killed;
      await write(lab.vm, 'd1', { offset: 0, length: MiB, pattern: 5 });
      await lab.backup('full');
      await lab.expectNothingLeft(1);
      await lab.expectChainEqualsDisks();
    },
    patient(120_000),
  );

  it(
    'keeps to --speed-limit',
    async () => {
      const lab = await filled();
      const slow = startCli(streaming(lab, '--speed-limit', '64K'));
      let taken = 0;
      slow.stdout.on('data', (bytes: Buffer) => (taken += bytes.length));
      await expect.poll(() => taken, { timeout: patient(60_000) }).toBeGreaterThan(64 * 1024);
      slow.kill('SIGTERM');
      expect((await slow).exitCode).toBe(143);
      // Without a limit d1 alone, 3 MiB, comes in one piece.
      expect(taken).toBeLessThan(2 * MiB);
      await expectNothing(lab);
    },
    patient(120_000),
  );

  it(
    'is refused with what it has no place for',
    async () => {
      const lab = await scenario([{ id: 'd1' }]);
      const base = ['--socket', lab.vm.socket, 'backup', '--output', '-'];
      for (const more of [
        [],
        ['--level', 'inc'],
        ['--level', 'copy', '--target', '/x'],
        ['--level', 'copy', '--verify'],
      ]) {
        await expectCli(2, [...base, ...more]);
      }
      await expectCli(2, ['--socket', lab.vm.socket, 'backup', '--level', 'copy', '--output', 'vm.tar']);
      await expectCli(2, ['--socket', lab.vm.socket, 'backup']);
      await expectNothing(lab);
    },
    patient(60_000),
  );
});

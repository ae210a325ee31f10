import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { levelsOf } from '../support/comparison.js';
import { MiB } from '../support/builders.js';
import { expectCli, startCli } from '../support/cli.js';
import { crashCli } from '../support/crash-point.js';
import { compareImages } from '../support/lab/compare.js';
import { createImage } from '../support/lab/disk-images.js';
import { run } from '../support/lab/programs.js';
import { patient } from '../support/patience.js';
import { type BackupAnswer, labDir, type Scenario, withFull, writeBoth } from '../support/scenario.js';

async function sha256(file: string): Promise<string> {
  return createHash('sha256')
    .update(await readFile(file))
    .digest('hex');
}

function filesOf({ vm }: Scenario): readonly { readonly id: string; readonly file: string }[] {
  return vm.options.disks.map(({ id, file }) => ({ id, file: file ?? '' }));
}

/** The options that name the VM's disks while it is off. */
function images(lab: Scenario): string[] {
  return filesOf(lab).flatMap(({ id, file }) => ['--offline', `${id}=${file}`]);
}

async function offline(lab: Scenario, level: string, ...more: string[]): Promise<BackupAnswer> {
  const args = ['--json', 'backup', '--level', level, '--target', lab.target, ...images(lab), ...more];
  return (await expectCli(0, args)).json<BackupAnswer>();
}

/** The newest point, restored, equals the images as they lie there. */
async function expectPointEqualsImages(lab: Scenario): Promise<void> {
  const output = join(lab.dir, `restored-${Math.random().toString(36).slice(2)}`);
  await expectCli(0, ['restore', '--target', lab.target, '--output', output]);
  for (const { id, file } of filesOf(lab)) await compareImages(join(output, `${id}.qcow2`), file);
}

async function expectNoLeftovers(lab: Scenario): Promise<void> {
  const stray = (await readdir(lab.target, { recursive: true })).filter((name) =>
    /\.partial$|run\.json|lock/.test(name),
  );
  expect(stray).toEqual([]);
}

describe('the disks of a VM that is off', () => {
  it('go into the chain of the running VM, which then goes on; the images are only read', async () => {
    const lab = await withFull();
    await writeBoth(lab, 20, 0x21);
    await lab.vm.stop();
    const before = await Promise.all(filesOf(lab).map(({ file }) => sha256(file)));

    const first = await offline(lab, 'inc', '--verify');
    expect(first.point).toMatchObject({ number: 1, level: 'inc', consistency: 'offline' });
    expect(first.point.disks.map(({ level, changed }) => [level, changed])).toEqual([
      ['inc', MiB],
      ['inc', MiB],
    ]);
    await expectPointEqualsImages(lab);
    // Nothing has changed, and nothing tells since when: it is all copied again, onto the same parent.
    expect((await offline(lab, 'auto', '--compress')).point).toMatchObject({ number: 2, level: 'inc' });
    await expectPointEqualsImages(lab);
    await expectNoLeftovers(lab);
    expect(await Promise.all(filesOf(lab).map(({ file }) => sha256(file)))).toEqual(before);

    await lab.restart();
    await writeBoth(lab, 22, 0x22);
    const { point } = await lab.backup('inc');
    expect(point).toMatchObject({ number: 3, chain: first.point.chain });
    expect(point.disks.map(({ disk, changed }) => [disk, changed])).toEqual([
      ['d1', 2 * MiB],
      ['d2', 2 * MiB],
    ]);
    await lab.expectChainEqualsDisks();
    await lab.expectNothingLeft(2);
    for (const number of [0, 1, 2]) {
      await expectCli(0, [
        'restore',
        '--target',
        lab.target,
        '--output',
        join(lab.dir, `p${number}`),
        '--point',
        `${number}`,
      ]);
    }
    await compareImages(join(lab.dir, 'p1', 'd1.qcow2'), join(lab.dir, 'p2', 'd1.qcow2'));
  });

  it('an image that was rolled back between two points is no basis for a wrong increment', async () => {
    const lab = await withFull();
    await lab.vm.stop();
    for (const { file } of filesOf(lab)) await run('cp', [file, `${file}.old`]);
    await lab.restart();
    await writeBoth(lab, 20, 0x21);
    await lab.vm.stop();
    await offline(lab, 'inc');
    for (const { file } of filesOf(lab)) await run('cp', [`${file}.old`, file]);
    await lab.restart();
    expect((await lab.backup('auto')).point.level).toBe('inc');
    await lab.expectChainEqualsDisks();
  });

  it('a comparison where QEMU was killed, with the reason; --level inc is refused', async () => {
    const lab = await withFull();
    await lab.vm.stop();
    await lab.restart();
    await writeBoth(lab, 20, 0x21);
    await lab.vm.kill();
    const args = ['backup', '--level', 'inc', '--target', lab.target, ...images(lab)];
    expect((await expectCli(13, args)).stderr).toContain('QEMU was killed');
    const { point } = await offline(lab, 'auto');
    expect(point.disks.map(({ level, compared, reason }) => [level, compared, /QEMU was killed/.test(reason)])).toEqual(
      [
        ['inc', true, true],
        ['inc', true, true],
      ],
    );
    await expectPointEqualsImages(lab);
    await lab.restart();
    await writeBoth(lab, 21, 0x22);
    expect(levelsOf(await lab.backup('auto'))).toEqual(['d1 inc by comparison', 'd2 inc by comparison']);
    await writeBoth(lab, 22, 0x23);
    expect((await lab.backup('inc')).point.level).toBe('inc');
    await lab.expectChainEqualsDisks();
    await lab.expectNothingLeft(2);
  });

  it('after a SIGKILL in the middle the next run takes away what is left', async () => {
    const lab = await withFull();
    await writeBoth(lab, 20, 0x21);
    await lab.vm.stop();
    const args = ['backup', '--level', 'inc', '--target', lab.target, ...images(lab)];
    await crashCli({ when: 'before', call: 'spawn', matches: /^setpriv .*--detect-zeroes/ }, args);
    const journal = JSON.parse(await readFile(join(lab.target, 'run.json'), 'utf8')) as { readonly scratch: string[] };
    expect((await offline(lab, 'inc')).point.number).toBe(1);
    expect(journal.scratch.filter((folder) => existsSync(folder))).toEqual([]);
    await expectNoLeftovers(lab);
    await expectPointEqualsImages(lab);
  });

  it('what a VM has open is refused, and nothing is changed', async () => {
    const lab = await withFull();
    const files = await readdir(lab.target, { recursive: true });
    const refused = await expectCli(13, ['backup', '--level', 'auto', '--target', lab.target, ...images(lab)]);
    expect(refused.stderr).toContain('is in use');
    expect(await readdir(lab.target, { recursive: true })).toEqual(files);
  });

  it('bitmaps of a run that died while the VM ran stay known until the VM runs again', async () => {
    const lab = await withFull();
    // What a run leaves that was killed right after its transaction.
    const attempt = 'abcdefabcdef';
    const stray = `qmpbackup-stray-${attempt}`;
    await lab.vm.control.execute('block-dirty-bitmap-add', { node: 'd2', name: stray, persistent: true });
    await lab.vm.stop();
    const journal = { schema: 1, attempt, startedAt: '2026-11-21T12:00:00.000Z', what: 'backup', monitor: '/run/q' };
    const disks = [{ disk: 'd2', bitmap: stray, job: `qmpbackup-${attempt}-d2`, file: 'INC-1.qcow2' }];
    const vm = { uuid: null, name: 'vm', label: null };
    const rest = { vm, disks, madeFolders: [], freezes: null, stops: false };
    await run('sh', [
      '-c',
      `printf %s "$1" > "$2"`,
      'sh',
      JSON.stringify({ ...journal, ...rest }),
      join(lab.target, 'run.json'),
    ]);
    await offline(lab, 'inc');
    await expectNoLeftovers(lab);
    await lab.restart();
    await lab.backup('inc');
    expect((await lab.bitmaps())['d2']?.filter((name) => name === stray)).toEqual([]);
    await lab.expectNothingLeft(2);
  });
});

describe('disks that no catalog knows', () => {
  it('raw and overlays are read whole; the VM cannot start meanwhile; --dry-run changes nothing', async () => {
    const dir = await labDir();
    const target = join(dir, 'target');
    const [raw, base, overlay] = [join(dir, 'a.raw'), join(dir, 'base.qcow2'), join(dir, 'top.qcow2')];
    await createImage({ file: raw, format: 'raw', size: 16 * MiB });
    await createImage({ file: base, format: 'qcow2', size: 16 * MiB });
    await run('qemu-io', ['-f', 'raw', '-c', 'write -P 1 1M 2M', raw]);
    await run('qemu-io', ['-c', 'write -P 2 2M 2M', base]);
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', base, overlay]);
    await run('qemu-io', ['-c', 'write -P 3 3M 2M', overlay]);
    const disks = ['--offline', `disk1=raw:${raw}`, '--offline', `disk2=${overlay}`];
    const args = ['--json', 'backup', '--level', 'auto', '--target', target, '--vm-name', 'web', ...disks];
    await expectCli(0, [...args, '--dry-run']);
    expect(existsSync(target)).toBe(false);
    const { point } = (await expectCli(0, args)).json<BackupAnswer>();
    expect(point.disks.map(({ disk, level }) => [disk, level])).toEqual([
      ['disk1', 'full'],
      ['disk2', 'full'],
    ]);
    const output = join(dir, 'restored');
    await expectCli(0, ['restore', '--target', target, '--output', output]);
    await compareImages(join(output, 'disk1.qcow2'), raw);
    await compareImages(join(output, 'disk2.qcow2'), overlay);
    for (const wrong of [
      ['--offline', 'disk1'],
      ['--offline', `disk1=${raw}`, '--offline', `disk1=${base}`],
      ['--socket', '/run/x', ...disks],
    ]) {
      await expectCli(2, ['backup', '--level', 'auto', '--target', target, ...wrong]);
    }
    const gone = ['backup', '--level', 'auto', '--target', target, '--offline', 'disk1=/no/such'];
    expect((await expectCli(13, gone)).stderr).toContain('/no/such');
  });

  it('no QEMU can open an image for writing while it is copied', async () => {
    const dir = await labDir();
    const target = join(dir, 'target');
    for (const format of ['qcow2', 'raw'] as const) {
      const file = join(dir, `a.${format}`);
      await createImage({ file, format, size: 8 * MiB });
      await run('qemu-io', ['-f', format, '-c', 'write -P 1 0 8M', file]);
    }
    const disks = ['--offline', `q=${join(dir, 'a.qcow2')}`, '--offline', `r=raw:${join(dir, 'a.raw')}`];
    const backup = startCli([...['backup', '--level', 'full', '--speed-limit', '1M', '--target', target], ...disks]);
    for (const until = Date.now() + patient(30_000); !(await isBeingFilled(join(target, 'r')));) {
      if (Date.now() > until) throw new Error('the copy did not begin');
      await sleep(20);
    }
    for (const format of ['qcow2', 'raw']) {
      await expect(run('qemu-io', ['-f', format, '-c', 'write -P 2 0 1M', join(dir, `a.${format}`)])).rejects.toThrow(
        'lock',
      );
    }
    backup.kill('SIGINT');
    expect((await backup).exitCode).toBe(130);
    expect(existsSync(target)).toBe(false);
  });
});

/** An empty qcow2 image takes less. */
const SOME_DATA = 512 * 1024;

async function isBeingFilled(folder: string): Promise<boolean> {
  const files = await readdir(folder).catch(() => []);
  const sizes = files
    .filter((name) => name.endsWith('.partial'))
    .map(async (name) => (await stat(join(folder, name))).size);
  return (await Promise.all(sizes)).some((size) => size > SOME_DATA);
}

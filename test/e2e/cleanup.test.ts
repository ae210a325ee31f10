import { mkdir, writeFile } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { dirname, join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { MiB } from '../support/builders.js';
import { levelsOf } from '../support/comparison.js';
import { expectCli } from '../support/cli.js';
import { write } from '../support/lab/guest-writes.js';
import { run } from '../support/lab/programs.js';
import { afterTest, scenario, type Scenario, textsOf } from '../support/scenario.js';

interface CleanupAnswer {
  readonly bitmaps: readonly { readonly bitmap: string; readonly removed: boolean }[];
  readonly needFull: readonly string[];
}

async function cleanup(lab: Scenario, ...more: string[]): Promise<CleanupAnswer> {
  return cleanupAt(lab.vm.socket, ...more);
}

async function cleanupAt(socket: string, ...more: string[]): Promise<CleanupAnswer> {
  const result = await expectCli(0, ['--json', '--socket', socket, 'cleanup', '--remove-bitmaps', ...more]);
  return result.json<CleanupAnswer>();
}

/** A monitor that answers only when `first` is done, which may itself be a run on the real one. */
async function monitorAfter(lab: Scenario, first: () => Promise<unknown>): Promise<string> {
  const socket = join(lab.dir, 'late.sock');
  const server = createServer((client) => {
    first().then(
      () => client.pipe(connect(lab.vm.socket)).pipe(client),
      (error: Error) => client.destroy(error),
    );
  });
  await new Promise<void>((resolve) => server.listen(socket, resolve));
  afterTest(() => new Promise((resolve) => server.close(resolve)));
  return socket;
}

async function addBitmap(lab: Scenario, name: string): Promise<void> {
  await lab.vm.control.execute('block-dirty-bitmap-add', { node: 'd1', name, persistent: true });
}

describe('cleanup --remove-bitmaps', () => {
  it('removes all of ours and those of the Python tool, never others, and says whose next backup is full', async () => {
    const lab = await scenario([{ id: 'd1', via: 'blockdev' }]);
    await lab.backup('full');
    await addBitmap(lab, 'qmpbackup-d1-0f1e2d3c-python');
    await addBitmap(lab, 'somebody-else');
    const dry = await cleanup(lab, '--dry-run');
    expect(dry.bitmaps.map(({ removed }) => removed).sort()).toEqual([false, true, true]);
    expect((await lab.bitmaps())['d1']).toHaveLength(2);

    const done = await cleanup(lab, '--uuid', '0f1e2d3c');
    expect(done.bitmaps.filter(({ removed }) => removed).map(({ bitmap }) => bitmap)).toEqual([
      'qmpbackup-d1-0f1e2d3c-python',
    ]);
    expect((await cleanup(lab)).needFull).toHaveLength(1);
    expect((await lab.bitmaps())['d1']).toEqual([]);
    const { stdout } = await expectCli(0, ['--socket', lab.vm.socket, 'info', '--show', 'bitmaps']);
    expect(stdout).toContain('somebody-else');
    expect(levelsOf(await lab.backup('auto'))).toContain('d1 inc by comparison');
  });

  it('--stale leaves what the target needs: the next backup is still incremental', async () => {
    const lab = await scenario([{ id: 'd1', via: 'blockdev' }]);
    await lab.backup('full');
    await lab.backup('inc');
    const catalog = await expectCli(0, ['--json', 'list', '--target', lab.target]);
    const [{ targetId }] = catalog.json<{ targets: [{ targetId: string }] }>().targets;
    await addBitmap(lab, `qmpbackup-${targetId}-d1-of-a-lost-run`);
    await addBitmap(lab, 'qmpbackup-ffffffffffffffff-d1-another-target');
    const done = await cleanup(lab, '--stale', '--target', lab.target);
    expect(done.bitmaps.filter(({ removed }) => removed).map(({ bitmap }) => bitmap)).toEqual([
      `qmpbackup-${targetId}-d1-of-a-lost-run`,
    ]);
    expect(done.needFull).toEqual([]);
    expect((await lab.backup('inc')).point.level).toBe('inc');
  });

  it('--stale leaves the bitmap of a backup that ended after the target was looked at', async () => {
    const lab = await scenario([{ id: 'd1', via: 'blockdev' }]);
    await lab.backup('full');
    const late = await monitorAfter(lab, () => lab.backup('inc'));
    const done = await cleanupAt(late, '--stale', '--target', lab.target);
    expect(done.bitmaps.filter(({ removed }) => removed)).toEqual([]);
    expect(done.needFull).toEqual([]);
    expect((await lab.backup('inc')).point.level).toBe('inc');
  });

  it('--image cleans an image of a VM that is off, inconsistent bitmaps too, and refuses one in use', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    const file = lab.vm.disk('d1').file!;
    const ofImage = ['cleanup', '--remove-bitmap', '--image', file];
    await lab.backup('full');
    await lab.vm.stop();
    await lab.restart();
    await expectCli(1, ofImage);
    await lab.vm.kill();
    const info = await run('qemu-img', ['info', file]);
    expect(info.stdout).toContain('in-use');
    await expectCli(0, ofImage);
    expect((await run('qemu-img', ['info', file])).stdout).not.toContain('qmpbackup-');
  });

  it('--image lets an image of a VM that is off go back to an internal snapshot', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    const file = lab.vm.disk('d1').file!;
    await lab.vm.stop();
    await run('qemu-img', ['snapshot', '-c', 'before', file]);
    await lab.restart();
    await lab.backup('full');
    await lab.vm.stop();
    const back = ['snapshot', '-a', 'before', file];
    expect((await run('qemu-img', back, { allowed: [1] })).stderr).toMatch(/dirty bitmaps/);
    await expectCli(0, ['cleanup', '--remove-bitmaps', '--image', file]);
    await run('qemu-img', back);
    await lab.restart();
    expect(levelsOf(await lab.backup('auto'))).toContain('d1 inc by comparison');
  });

  it('is asked for by name, and --target goes with --stale', async () => {
    const result = await expectCli(2, ['--socket', '/nowhere', 'cleanup']);
    expect(result.stderr).toContain('--remove-bitmaps');
    await expectCli(2, ['--socket', '/nowhere', 'cleanup', '--remove-bitmaps', '--target', '/tmp']);
    await expectCli(2, ['--socket', '/nowhere', 'cleanup', '--remove-bitmaps', '--stale']);
  });
});

describe('info and list', () => {
  it('show what the VM has, what is left out and why, and what a tracked disk refuses', async () => {
    const lab = await scenario([{ id: 'd1' }, { id: 'd2', via: 'blockdev' }]);
    const info = (...more: string[]) => expectCli(0, ['--socket', lab.vm.socket, 'info', ...more]);
    expect((await info('--show', 'bitmaps')).stdout).toContain('no bitmaps');
    expect((await info('--show', 'jobs')).stdout).toContain('no jobs');
    expect((await info()).stdout).toMatch(/^d1 .*qcow2/m);
    await lab.backup('full');
    expect((await info('--show', 'bitmaps')).stdout).toContain('refuses to go back to an internal snapshot');
    const json = (await expectCli(0, ['--json', '--socket', lab.vm.socket, 'info'])).json();
    expect(json).toMatchObject({ schema: 1, command: 'info', vm: { machine: { name: 'vm', uuid: null } } });
  });

  it('list tells level, consistency, size and needs of each point, also of all targets below a folder', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    await lab.backup('auto', '--monthly');
    await write(lab.vm, 'd1', { offset: 0, length: MiB, pattern: 7 });
    const inc = await lab.backup('auto', '--monthly');
    const { stdout } = await expectCli(0, ['list', '--target', lab.target]);
    expect(stdout).toContain(inc.target);
    expect(stdout).toMatch(/:1 .* INC .* crash .* 2 files/);
    const json = (await expectCli(0, ['--json', 'list', '--target', inc.target])).json<{
      targets: {
        points: {
          point: { id: string };
          needs: string[];
          frees: number;
          neededBy: string[];
          notWhole: string | null;
        }[];
      }[];
    }>();
    expect(stdout).toMatch(/:0 .* 0 \(1 builds on it\) {2}d1/);
    const [full, last] = json.targets[0]!.points;
    expect(full).toMatchObject({ frees: 0, neededBy: [last!.point.id] });
    expect(last!.frees).toBeGreaterThanOrEqual(MiB);
    expect(json.targets[0]!.points[1]).toMatchObject({ notWhole: null });
    expect(json.targets[0]!.points[1]!.needs).toHaveLength(2);
    await expectCli(10, ['list', '--target', lab.dir + '/vm']);
    const damaged = join(dirname(inc.target), '2001-01');
    await mkdir(damaged);
    await writeFile(join(damaged, 'catalog.json'), '{');
    const next = await lab.backup('inc', '--monthly');
    expect(textsOf(next.warnings).join()).toContain('an older month cannot be read');
  });
});

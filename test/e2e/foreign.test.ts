import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { QmpClient } from '../../src/qmp/client.js';
import { QmpCommandError } from '../../src/qmp/errors.js';
import { MiB } from '../support/builders.js';
import { expectCli } from '../support/cli.js';
import { compareImages } from '../support/lab/compare.js';
import { createImage } from '../support/lab/disk-images.js';
import { flush, write } from '../support/lab/guest-writes.js';
import { run } from '../support/lab/programs.js';
import { type RunningBackup, startBackup, untilCopying } from '../support/running-backup.js';
import { scenario, type Scenario } from '../support/scenario.js';

/**
 * Other programs use the same QEMU, with names that resemble ours, before, between and in the middle of our runs: the
 * chain is right all the same, what is theirs stays as it is, and what they make is right too.
 */
const SIZE = 16 * MiB;
const CLUSTER = 64 * 1024;

/** Two node-named disks of data, and a second monitor beside those of the tool and the test. */
async function lab(): Promise<Scenario> {
  const made = await scenario(
    [
      { id: 'd1', via: 'blockdev', size: SIZE },
      { id: 'd2', via: 'blockdev', size: SIZE },
    ],
    { monitors: { tcp: true } },
  );
  await fill(made, 'd1', 0x11);
  await fill(made, 'd2', 0x22);
  return made;
}

const fill = ({ vm }: Scenario, disk: string, pattern: number): Promise<void> =>
  write(vm, disk, { offset: 0, length: 8 * MiB, pattern });

interface Row {
  readonly 'node-name': string;
  readonly 'dirty-bitmaps'?: readonly { readonly name: string; readonly count: number; readonly recording: boolean }[];
}
interface Job {
  readonly id: string;
  readonly type: string;
  readonly status: string;
  readonly error?: string;
}

const nodesOf = ({ vm }: Scenario): Promise<Row[]> =>
  vm.control.execute('query-named-block-nodes', { flat: true }) as Promise<Row[]>;
const jobsOf = ({ vm }: Scenario): Promise<Job[]> => vm.control.execute('query-jobs') as Promise<Job[]>;

/** What belongs to others, as QEMU shows it: none of it may change by anything we do. */
class Others {
  readonly #lab: Scenario;
  readonly #bitmaps = new Map<string, number>();
  readonly #nodes = new Set<string>();

  constructor(made: Scenario) {
    this.#lab = made;
  }

  async addBitmap(node: string, name: string, more: Readonly<Record<string, unknown>> = {}): Promise<void> {
    await this.#lab.vm.control.execute('block-dirty-bitmap-add', { node, name, ...more });
    this.#bitmaps.set(name, 0);
  }

  async removeBitmap(node: string, name: string): Promise<void> {
    await this.#lab.vm.control.execute('block-dirty-bitmap-remove', { node, name });
    this.#bitmaps.delete(name);
  }

  /** So many bytes were written since the bitmap was made. */
  expectCount(name: string, bytes: number): void {
    this.#bitmaps.set(name, bytes);
  }

  /** A node of an empty image, or of `file`. */
  async addNode(name: string, file?: string): Promise<string> {
    const path = file ?? join(this.#lab.dir, `${name}.qcow2`);
    if (file === undefined) await createImage({ file: path, format: 'qcow2', size: SIZE });
    await this.#lab.vm.control.execute('blockdev-add', {
      ...{ driver: 'qcow2', 'node-name': name },
      file: { driver: 'file', filename: path },
    });
    this.#nodes.add(name);
    return path;
  }

  async removeNode(name: string): Promise<void> {
    await this.#lab.vm.control.execute('blockdev-del', { 'node-name': name });
    this.#nodes.delete(name);
  }

  async job(command: string, id: string, args: Readonly<Record<string, unknown>>): Promise<void> {
    await this.#lab.vm.control.execute(command, { 'job-id': id, 'auto-dismiss': false, ...args });
  }

  async expectUntouched(): Promise<void> {
    const nodes = await nodesOf(this.#lab);
    const bitmaps = nodes.flatMap((node) => node['dirty-bitmaps'] ?? []);
    for (const [name, count] of this.#bitmaps) {
      expect(bitmaps.find((bitmap) => bitmap.name === name)).toMatchObject({ count, recording: true });
    }
    const names = nodes.map((node) => node['node-name']);
    for (const name of this.#nodes) expect(names).toContain(name);
  }
}

async function statusOf(made: Scenario, id: string): Promise<string | undefined> {
  return (await jobsOf(made)).find((job) => job.id === id)?.status;
}

async function untilStatus(made: Scenario, id: string, wanted: string): Promise<void> {
  for (;;) {
    const job = (await jobsOf(made)).find((each) => each.id === id);
    if (job?.status === wanted) return;
    if (!job || job.status === 'concluded') throw new Error(`job ${id}: ${JSON.stringify(job)}`);
    await sleep(10);
  }
}

/** The job's end, as whoever started it would see it. */
async function concluded(made: Scenario, id: string): Promise<void> {
  await untilStatus(made, id, 'concluded');
  const job = (await jobsOf(made)).find((each) => each.id === id);
  expect(job?.error).toBeUndefined();
  await made.vm.control.execute('job-dismiss', { id });
}

/** Slow enough for a test to do something in the middle; as fast as it can once that is done. */
async function inTheMiddle(made: Scenario, level: string, meanwhile: (tool: RunningBackup) => Promise<void>) {
  const tool = startBackup(made, level, '--speed-limit', '256K');
  await untilCopying(made, tool, 2);
  await meanwhile(tool);
  expect(tool.running()).toBe(true);
  for (const { id, status } of await jobsOf(made)) {
    if (/^qmpbackup-[0-9a-f]{12}-d[12]$/.test(id) && status === 'running') {
      await made.vm.control.execute('block-job-set-speed', { device: id, speed: 0 });
    }
  }
  const { exitCode, stderr } = await tool.ended;
  expect(exitCode, stderr).toBe(0);
}

/** Somebody else's monitor: connects, looks around, and is cut off in the middle of a command. */
async function secondClient(made: Scenario): Promise<void> {
  for (const goodbye of [true, false]) {
    const client = await QmpClient.connect({ kind: 'tcp', host: '127.0.0.1', port: made.vm.tcpPort! });
    await client.execute('query-jobs');
    if (!goodbye) client.execute('query-qmp-schema').catch(() => undefined);
    await client.close();
  }
}

describe('other programs at work', () => {
  it('with names that resemble ours, before, between and in the middle of a FULL and an INC', async () => {
    const made = await lab();
    const { control } = made.vm;
    const others = new Others(made);
    // Before the first run.
    await others.addBitmap('d1', 'qmpbackup-foo', { persistent: true });
    await others.addBitmap('d2', 'somebody');
    await others.addNode('qmpbackup-probe');
    const mirrored = await others.addNode('qmpbackup-mirrored');
    await others.addNode('other-disk');
    await others.job('blockdev-mirror', 'qmpbackup-0123456789ab-d1', {
      ...{ device: 'other-disk', target: 'qmpbackup-mirrored', sync: 'full' },
    });
    await untilStatus(made, 'qmpbackup-0123456789ab-d1', 'ready');
    await write(made.vm, 'd1', { offset: 0, length: 3 * CLUSTER, pattern: 0x12 });
    others.expectCount('qmpbackup-foo', 3 * CLUSTER);

    for (const level of ['full', 'inc'] as const) {
      if (level === 'inc') {
        await fill(made, 'd1', 0x31);
        await fill(made, 'd2', 0x32);
        others.expectCount('qmpbackup-foo', 8 * MiB);
        others.expectCount('somebody', 8 * MiB);
        others.expectCount('qmpbackup-passing-full', 8 * MiB);
      }
      const copy = join(made.dir, `copy-of-d1-at-${level}.qcow2`);
      await inTheMiddle(made, level, async () => {
        await others.addBitmap('d1', `passing-${level}`);
        await others.addBitmap('d2', `qmpbackup-passing-${level}`, { persistent: true });
        await others.addNode(`qmpbackup-passing-${level}`);
        // One job of another that ends well on a disk of ours, and one that is cancelled.
        await createImage({ file: copy, format: 'qcow2', size: SIZE });
        await others.addNode(`copy-${level}`, copy);
        await others.job('blockdev-backup', 'nightly', { device: 'd1', target: `copy-${level}`, sync: 'full' });
        await others.addNode('given-up');
        await others.job('blockdev-backup', 'qmpbackup-nightly', {
          ...{ device: 'd2', target: 'given-up', sync: 'full', speed: CLUSTER },
        });
        await control.execute('job-cancel', { id: 'qmpbackup-nightly' });
        await untilStatus(made, 'qmpbackup-nightly', 'concluded');
        await control.execute('job-dismiss', { id: 'qmpbackup-nightly' });
        await concluded(made, 'nightly');
        await others.removeNode('given-up');
        await others.removeNode(`copy-${level}`);
        await rm(join(made.dir, 'given-up.qcow2'));
        await secondClient(made);
        await others.removeBitmap('d1', `passing-${level}`);
        await others.removeNode(`qmpbackup-passing-${level}`);
        await others.expectUntouched();
      });
      expect(await statusOf(made, 'qmpbackup-0123456789ab-d1')).toBe('ready');
      await others.expectUntouched();
      await made.expectChainEqualsDisks();
      await flush(made.vm, 'd1');
      await compareImages(copy, made.vm.disk('d1').file!);
    }

    // They end, or go, and only ours is left.
    await control.execute('job-complete', { id: 'qmpbackup-0123456789ab-d1' });
    await concluded(made, 'qmpbackup-0123456789ab-d1');
    for (const node of ['qmpbackup-mirrored', 'qmpbackup-probe']) await others.removeNode(node);
    await compareImages(mirrored, join(made.dir, 'other-disk.qcow2'));
    await others.removeBitmap('d1', 'qmpbackup-foo');
    for (const level of ['full', 'inc']) await others.removeBitmap('d2', `qmpbackup-passing-${level}`);
    await made.expectNothingLeft(2);
    await others.expectUntouched();
    await write(made.vm, 'd1', { offset: MiB, length: CLUSTER, pattern: 0x41 });
    expect((await made.backup('inc')).point.disks.map(({ level }) => level)).toEqual(['inc', 'inc']);
    await made.expectChainEqualsDisks();
  });

  it('a stream into a disk of ours goes on beside a FULL and an INC', async () => {
    const made = await scenario([{ id: 'd2', via: 'blockdev', size: SIZE }]);
    const base = join(made.dir, 'base.qcow2');
    const file = join(made.dir, 'd1.qcow2');
    await createImage({ file: base, format: 'qcow2', size: SIZE });
    await run('qemu-io', ['-c', 'write -P 0x51 0 8M', base]);
    await createImage({ file, format: 'qcow2', size: SIZE, backing: { file: base, format: 'qcow2' } });
    await made.vm.stop();
    await made.restart({ disks: [{ id: 'd1', via: 'blockdev', file, format: 'qcow2' }, ...made.vm.options.disks] });
    await fill(made, 'd2', 0x22);
    for (const level of ['full', 'inc'] as const) {
      await write(made.vm, 'd1', { offset: MiB, length: 2 * MiB, pattern: 0x60 });
      if (level === 'inc') await fill(made, 'd2', 0x32);
      await inTheMiddle(made, level, async () => {
        // The first is given up half-way, the second one runs to its end.
        await made.vm.control.execute('block-stream', {
          ...{ device: 'd1', 'job-id': `qmpbackup-stream-${level}`, 'auto-dismiss': false },
          speed: level === 'full' ? MiB : 0,
        });
        if (level === 'full') await made.vm.control.execute('job-cancel', { id: 'qmpbackup-stream-full' });
        else return concluded(made, 'qmpbackup-stream-inc');
        await untilStatus(made, 'qmpbackup-stream-full', 'concluded');
        await made.vm.control.execute('job-dismiss', { id: 'qmpbackup-stream-full' });
      });
      await made.expectChainEqualsDisks();
      await made.expectNothingLeft(2);
    }
  });

  it('a mirror of a disk of ours refuses us, in words, and nothing is left; it ends, and we go on', async () => {
    const made = await lab();
    await made.backup('full');
    await fill(made, 'd1', 0x71);
    const others = new Others(made);
    const mirrored = await others.addNode('mirrored');
    await others.job('blockdev-mirror', 'qmpbackup-mirror', { device: 'd1', target: 'mirrored', sync: 'full' });
    await untilStatus(made, 'qmpbackup-mirror', 'ready');
    for (const level of ['inc', 'auto']) {
      const args = ['--socket', made.vm.socket, 'backup', '--level', level, '--target', made.target];
      for (const more of [[], ['--dry-run']]) {
        const refused = await expectCli(13, [...args, ...more]);
        expect(refused.stderr).toMatch(/d1: .*mirror, id qmpbackup-mirror/);
        expect(refused.stderr).toMatch(/hint: .*job-cancel id=qmpbackup-mirror/);
      }
      expect(await statusOf(made, 'qmpbackup-mirror')).toBe('ready');
      await others.expectUntouched();
    }
    await flush(made.vm, 'd1');
    await made.vm.control.execute('job-cancel', { id: 'qmpbackup-mirror' });
    await untilStatus(made, 'qmpbackup-mirror', 'concluded');
    await made.vm.control.execute('job-dismiss', { id: 'qmpbackup-mirror' });
    await others.removeNode('mirrored');
    await compareImages(mirrored, made.vm.disk('d1').file!);

    await made.expectNothingLeft(1);
    const { point } = await made.backup('inc');
    expect(point.disks.map(({ level }) => level)).toEqual(['inc', 'inc']);
    await made.expectChainEqualsDisks();
  });

  it('a mirror that comes in the middle of a run of ours changes nothing in it', async () => {
    const made = await lab();
    const others = new Others(made);
    for (const level of ['full', 'inc'] as const) {
      await fill(made, 'd1', level === 'full' ? 0x81 : 0x82);
      await fill(made, 'd2', level === 'full' ? 0x83 : 0x84);
      await others.addNode(`mirrored-${level}`);
      await inTheMiddle(made, level, async () => {
        const mirror = { device: 'd1', target: `mirrored-${level}`, sync: 'full' };
        await expect(others.job('blockdev-mirror', 'qmpbackup-mirror', mirror)).rejects.toThrow(QmpCommandError);
      });
      await others.expectUntouched();
      await others.removeNode(`mirrored-${level}`);
      await made.expectChainEqualsDisks();
      await made.expectNothingLeft(2);
    }
  });
});

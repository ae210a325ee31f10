/**
 * Many runs on VMs whose disks are in iothreads, while a guest writes to them. There QEMU is easily killed or hung: by a
 * filter that is made while the guest writes, or by two jobs that end at once.
 */
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { expectCli } from './cli.js';
import { compareImages } from './lab/compare.js';
import { createWritingDisk } from './lab/disk-images.js';
import type { Disk } from './lab/disks.js';
import { startQemu, type Vm } from './lab/qemu.js';
import { patient } from './patience.js';

const MiB = 1024 * 1024;

const SHAPES = ['throttled', 'one iothread', 'an iothread each', 'virtio-scsi'] as const;
/** `iothread-vq-mapping`: the queues of each disk are shared out among two iothreads. */
const SHAPES_OF_10 = [...SHAPES, 'mapped queues'] as const;
export type IothreadShape = (typeof SHAPES_OF_10)[number];

/** All that the QEMU of these tests can have. */
export const IOTHREAD_SHAPES: readonly IothreadShape[] =
  process.env['QMPBACKUP_TEST_QEMU'] === '10' ? SHAPES_OF_10 : SHAPES;

export interface IothreadSoakOptions {
  /** For images, sockets and the target; see makeLabDir. */
  readonly dir: string;
  readonly shape: IothreadShape;
  readonly runs: number;
  /** More options of each `backup`. */
  readonly how: readonly string[];
}

export interface IothreadSoak {
  readonly qemuVersion: string;
  /** What the guest has written to each disk during the runs, in requests. */
  readonly writes: readonly number[];
}

/**
 * Throws when QEMU dies or hangs, when a run fails, when the guest has not gone on writing, and when the chain does not
 * equal the disks in the end.
 */
export async function soakIothreads({ dir, shape, runs, how }: IothreadSoakOptions): Promise<IothreadSoak> {
  await mkdir(dir);
  const disks = [1, 2].map((number) => diskOf(dir, shape, number));
  for (const { file } of disks) await createWritingDisk({ file, format: 'qcow2', size: 16 * MiB });
  const vm = await startQemu({ dir: join(dir, 'vm'), disks, name: 'soak' });
  const target = join(dir, 'target');
  const backup = ['--quiet', '--socket', vm.socket, 'backup', '--level', 'auto', '--target', target, ...how];
  let run = 0;
  try {
    await vm.control.execute('cont');
    await untilWriting(vm);
    const before = await writesOf(vm);
    for (run = 1; run <= runs; run += 1) {
      await expectCli(0, backup);
      await expectClean(vm);
    }
    const writes = (await writesOf(vm)).map((each, index) => each - (before[index] ?? 0));
    await untilWriting(vm);
    // A last point of a guest that stands still, to compare with the disks.
    await vm.control.execute('stop');
    await expectCli(0, backup);
    await vm.stop();
    await expectCli(0, ['restore', '--target', target, '--output', join(dir, 'restored')]);
    for (const { id, file } of disks) await compareImages(join(dir, 'restored', `${id}.qcow2`), file);
    const { major, minor, micro } = vm.control.greeting.qemuVersion;
    return { qemuVersion: `${major}.${minor}.${micro}`, writes };
  } catch (error) {
    const words = `${shape}, run ${run}: ${(error as Error).message}\nQEMU said: ${vm.stderr.toString()}`;
    throw new Error(words, { cause: error });
  } finally {
    await vm.kill();
    await rm(dir, { recursive: true, force: true });
  }
}

function diskOf(dir: string, shape: IothreadShape, number: number): Disk & { readonly file: string } {
  const id = `d${number}`;
  return {
    ...{ id, file: join(dir, `${id}.qcow2`), via: 'blockdev' },
    iothread: shape === 'mapped queues' ? ['io1', 'io2'] : shape === 'an iothread each' ? `io${number}` : 'io1',
    ...(shape === 'virtio-scsi' && { interface: 'scsi' }),
    ...(shape === 'throttled' && { throttle: { operations: 400 } }),
  };
}

const WRITING_MS = patient(60_000);

/** Throws unless more is written to each disk soon: a guest that hangs is as bad as one that is dead. */
async function untilWriting(vm: Vm): Promise<void> {
  const first = await writesOf(vm);
  for (const until = Date.now() + WRITING_MS; ; await new Promise((resolve) => setTimeout(resolve, 50))) {
    const now = await writesOf(vm);
    if (now.every((writes, index) => writes > (first[index] ?? 0))) return;
    if (Date.now() > until) throw new Error(`the guest does not write: ${first.join(', ')}, then ${now.join(', ')}`);
  }
}

interface DeviceStatistics {
  readonly qdev?: string;
  readonly stats: { readonly wr_operations: number };
}

async function writesOf(vm: Vm): Promise<readonly number[]> {
  const devices = (await vm.control.execute('query-blockstats')) as readonly DeviceStatistics[];
  return devices.filter(({ qdev }) => qdev !== undefined).map(({ stats }) => stats.wr_operations);
}

/** QEMU answers, the guest runs, and nothing of the run is left in it. */
async function expectClean(vm: Vm): Promise<void> {
  const { status } = (await vm.control.execute('query-status')) as { readonly status: string };
  if (status !== 'running') throw new Error(`the VM is ${status}`);
  const jobs = (await vm.control.execute('query-jobs')) as readonly unknown[];
  if (jobs.length > 0) throw new Error(`jobs are left: ${JSON.stringify(jobs)}`);
}

import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach } from 'vitest';
import type { Warning } from '../../src/core/warning.js';
import { MiB } from './builders.js';
import { expectCli } from './cli.js';
import { compareImages } from './lab/compare.js';
import { createImage, type ImageFormat } from './lab/disk-images.js';
import { flush, write } from './lab/guest-writes.js';
import { makeLabDir } from './lab/programs.js';
import { type Disk, type QemuOptions, startQemu, type Vm } from './lab/qemu.js';
import { straysOf } from './target-files.js';

/**
 * A guest-less VM with small disks and an empty target, taken away after the test. Writes come from the test itself,
 * so the disk stands still whenever it does.
 */
export interface Scenario {
  readonly dir: string;
  readonly target: string;
  vm: Vm;
  /** `qmpbackup --socket … backup --level … --target …`, which must end with `exitCode`. */
  backup(level: string, ...more: string[]): Promise<BackupAnswer>;
  /** Starts the same VM again after it ended. */
  restart(options?: Partial<QemuOptions>): Promise<void>;
  /** Restores the newest point and compares every disk with the VM's image, bit for bit. */
  expectChainEqualsDisks(target?: string): Promise<void>;
  /** Bitmap names of ours on each disk, by disk id of the lab. */
  bitmaps(): Promise<Record<string, string[]>>;
  /** Nothing of ours is left in QEMU (but `bitmaps` per disk) or as a partial file or journal. */
  expectNothingLeft(bitmapsPerDisk: number): Promise<void>;
}

export interface BackupAnswer {
  readonly point: {
    readonly id: string;
    readonly number: number;
    readonly level: string;
    readonly chain: string;
    readonly consistency: string;
    readonly disks: readonly {
      readonly disk: string;
      readonly level: string;
      readonly reason: string;
      readonly file: string;
      readonly changed: number;
      readonly allocated: number;
      readonly parent: string | null;
      readonly compared: boolean;
      readonly source: { readonly file: string };
    }[];
    readonly removed: readonly string[];
  };
  readonly plan: { readonly leftOut: readonly { readonly name: string; readonly reason: string }[] };
  readonly target: string;
  readonly warnings: readonly Warning[];
}

/** What was warned of, without the codes. */
export function textsOf(warnings: readonly Warning[]): readonly string[] {
  return warnings.map(({ text }) => text);
}

const cleanUps: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (let cleanUp = cleanUps.pop(); cleanUp; cleanUp = cleanUps.pop()) await cleanUp();
});

export interface DiskSpec extends Partial<Disk> {
  readonly id: string;
  readonly size?: number;
  readonly compat?: '1.1' | '0.10';
  readonly format?: ImageFormat;
}

/** Runs `step` after the test, the last registered first. */
export function afterTest(step: () => Promise<unknown>): void {
  cleanUps.push(step);
}

export async function labDir(): Promise<string> {
  const dir = await makeLabDir();
  afterTest(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

export async function scenario(
  disks: readonly DiskSpec[] = [{ id: 'd1' }, { id: 'd2', via: 'blockdev' }],
  options: Partial<QemuOptions> = {},
): Promise<Scenario> {
  const dir = await labDir();
  const made = await Promise.all(disks.map((disk) => makeDisk(dir, disk)));
  const target = join(dir, 'target');
  const start = (more: Partial<QemuOptions> = {}): Promise<Vm> =>
    startQemu({ dir: join(dir, 'vm'), disks: made, name: 'vm', ...options, ...more });
  let vm = await start();
  afterTest(() => vm.kill());
  const self: Scenario = {
    dir,
    target,
    get vm() {
      return vm;
    },
    set vm(next) {
      vm = next;
    },
    backup: async (level, ...more) => {
      const at = more.includes('--target') ? [] : ['--target', target];
      const result = await expectCli(0, ['--json', '--socket', vm.socket, 'backup', '--level', level, ...at, ...more]);
      return result.json<BackupAnswer>();
    },
    restart: async (more = {}) => {
      vm = await start(more);
    },
    expectChainEqualsDisks: async (from = target) => {
      const output = join(dir, `restored-${Math.random().toString(36).slice(2)}`);
      await expectCli(0, ['restore', '--target', from, '--output', output]);
      for (const disk of vm.options.disks) {
        if (disk.file === undefined) continue;
        await flush(vm, disk.id);
        await compareImages(join(output, `${disk.id}.qcow2`), disk.file);
      }
    },
    bitmaps: async () => {
      const rows = await bitmapRows(vm);
      return Object.fromEntries(rows.map(({ file, names }) => [nameOfDisk(vm, file), names]));
    },
    expectNothingLeft: async (bitmapsPerDisk) => {
      const jobs = (await vm.control.execute('query-jobs')) as unknown[];
      if (jobs.length > 0) throw new Error(`jobs are left: ${JSON.stringify(jobs)}`);
      for (const { file, names } of await bitmapRows(vm)) {
        if (names.length > bitmapsPerDisk) throw new Error(`${file} carries ${names.length} bitmaps: ${names.join()}`);
      }
      const nodes = (await vm.control.execute('query-named-block-nodes', { flat: true })) as { 'node-name': string }[];
      const ours = nodes.map((node) => node['node-name']).filter((name) => name.startsWith('qmpbackup'));
      if (ours.length > 0) throw new Error(`nodes are left: ${ours.join()}`);
      const files = await readdir(target, { recursive: true }).catch(() => []);
      const stray = straysOf(files);
      if (stray.length > 0) throw new Error(`files are left: ${stray.join()}`);
    },
  };
  return self;
}

/** A VM with two disks, something on them, and a FULL in its target. */
export async function withFull(options: Partial<QemuOptions> = {}): Promise<Scenario> {
  const lab = await scenario(undefined, options);
  await writeBoth(lab, 0, 0x11, 10);
  await lab.backup('full');
  return lab;
}

/** Writes at the same place of both disks, in MiB. */
export async function writeBoth(lab: Scenario, offset: number, pattern: number, length = 1): Promise<void> {
  for (const disk of ['d1', 'd2']) {
    await write(lab.vm, disk, { offset: offset * MiB, length: length * MiB, pattern });
  }
}

async function makeDisk(dir: string, spec: DiskSpec): Promise<Disk> {
  const { size = 64 * MiB, compat, format = 'qcow2', ...disk } = spec;
  const file = disk.file ?? join(dir, `${disk.id}.${format}`);
  await createImage({ file, format, size, ...(compat ? { compat } : {}) });
  return { ...disk, format, file };
}

interface NodeRow {
  readonly drv: string;
  readonly file: string;
  readonly 'dirty-bitmaps'?: readonly { readonly name?: string }[];
}

async function bitmapRows(vm: Vm): Promise<{ readonly file: string; readonly names: string[] }[]> {
  const nodes = (await vm.control.execute('query-named-block-nodes', { flat: true })) as NodeRow[];
  return nodes
    .filter(({ drv }) => drv === 'qcow2' || drv === 'raw')
    .map((node) => ({
      file: node.file,
      names: (node['dirty-bitmaps'] ?? [])
        .map(({ name }) => name ?? '')
        .filter((name) => name.startsWith('qmpbackup-')),
    }));
}

function nameOfDisk(vm: Vm, file: string): string {
  return vm.options.disks.find((disk) => disk.file === file)?.id ?? file;
}

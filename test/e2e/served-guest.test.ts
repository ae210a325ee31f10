import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { MiB } from '../support/builders.js';
import { photograph } from '../support/chains.js';
import { expectCli } from '../support/cli.js';
import { sumOf } from '../support/guest-disk.js';
import { checkFs, fileChecksums } from '../support/lab/compare.js';
import { makeExt4, PARTITION_START } from '../support/lab/disk-images.js';
import { makeLabDir, run } from '../support/lab/programs.js';
import { type GuestVm, startQemu } from '../support/lab/qemu.js';
import { IS_LONG } from '../support/moments.js';
import { startMount } from '../support/mounting.js';
import { patient } from '../support/patience.js';
import type { BackupAnswer } from '../support/scenario.js';
import { startServe } from '../support/serving.js';

/**
 * Points of a guest that writes all the time, served, mounted and read file by file: what is there is what a restore writes and
 * what the guest had, and a guest runs from it. The file system of d2 is on a partition.
 */
const DISKS = ['d1', 'd2'] as const;
const MOUNTS = ['/mnt/d1', '/mnt/d2'] as const;
const INCREMENTS = IS_LONG ? 10 : 4;
const POINTS = Array.from({ length: INCREMENTS + 1 }, (_, number) => number);
const FILES = Array.from({ length: 20 }, (_, index) => `file-${index}.bin`);

let dir = '';
let vm: GuestVm;

beforeAll(async () => {
  dir = await makeLabDir();
  const disks = DISKS.map((id, index) => ({ id, label: `DATA${index + 1}`, file: join(dir, `${id}.qcow2`) }));
  for (const { id, file, label } of disks)
    await makeExt4({ file, label, format: 'qcow2', size: 64 * MiB, onPartition: id === 'd2' });
  vm = await startQemu({ dir: join(dir, 'vm'), name: 'writer', disks, guest: true });
  await mountPartition(vm);
  await vm.guest.startWorkload('writer');
});
afterAll(async () => {
  await vm?.kill();
  await rm(dir, { recursive: true, force: true });
});

async function mountPartition({ guest }: GuestVm): Promise<void> {
  await guest.run('mkdir -p /mnt/d2 && mount -t ext4 -o noatime /dev/vdb1 /mnt/d2');
}

/** Which files the guest writes anew before a point: all before the first, then others each time. */
function changedBefore(point: number): readonly string[] {
  return FILES.filter((_, index) => point === 0 || index % INCREMENTS === point - 1);
}

/** Writes them on the partition, and tells what all of them have then. */
async function changeFiles(point: number): Promise<ReadonlyMap<string, string>> {
  const write = changedBefore(point).map((name) => `dd if=/dev/urandom of=${name} bs=1k count=$((RANDOM % 200 + 1))`);
  await vm.guest.run(`mkdir -p /mnt/d2/data && cd /mnt/d2/data && { ${write.join(' && ')}; } 2>/dev/null`);
  return vm.guest.fileChecksums('/mnt/d2/data');
}

it(
  `each of FULL + ${INCREMENTS} INC equals its restore bit for bit, served and mounted, its files are right, and a second VM runs from the last`,
  { timeout: patient(400_000) },
  async () => {
    const target = join(dir, 'target');
    const agent = ['--agent-socket', vm.agentSocket];
    const backup = ['--json', '--socket', vm.socket, ...agent, 'backup', '--target', target, '--quiesce=require'];
    let had: readonly unknown[] = [];
    const filesAt: ReadonlyMap<string, string>[] = [];
    for (const number of POINTS) {
      filesAt.push(await changeFiles(number));
      if (number === INCREMENTS) {
        await vm.guest.pauseWorkload();
        had = [await vm.guest.fileChecksums('/mnt/d1'), await vm.guest.fileChecksums('/mnt/d2')];
      }
      const { point } = (await expectCli(0, backup)).json<BackupAnswer>();
      expect(point).toMatchObject({ number, level: number === 0 ? 'full' : 'inc', consistency: 'filesystem' });
      for (const { changed } of point.disks) expect(changed).toBeGreaterThan(0);
      if (number < INCREMENTS) for (const mount of MOUNTS) await vm.guest.untilWritten(mount);
    }
    const before = await photograph(target);
    for (const number of POINTS) {
      const [point, output] = [String(number), join(dir, `restored-${number}`)];
      await expectCli(0, ['restore', '--target', target, '--point', point, '--output', output, '--format', 'raw']);
      const asked = ['--target', target, '--point', point];
      const serving = await startServe(asked);
      expect(serving.disks.map(({ disk }) => disk)).toEqual(DISKS);
      for (const { disk, uri } of serving.disks) {
        const copy = join(output, `${disk}.served`);
        await run('nbdcopy', [uri, copy]);
        await run('cmp', [copy, join(output, `${disk}.raw`)]);
        await checkFs(disk === 'd2' ? await partitionOf(copy) : copy);
      }
      expect(await serving.end()).toBe(0);
      const mounting = await startMount([...asked, join(dir, 'mnt')]);
      expect(mounting.disks.map(({ disk }) => disk)).toEqual(DISKS);
      for (const { disk, path } of mounting.disks) await run('cmp', [path, join(output, `${disk}.raw`)]);
      expect(await mounting.end()).toBe(0);
      await expectCli(0, ['files', 'get', ...asked, '--disk', 'd2', '--output', output, '/data']);
      expect(await checksumsIn(join(output, 'data'))).toEqual(filesAt[number]);
      await rm(output, { recursive: true });
    }
    const find = ['--json', 'files', 'find', '--target', target, '--disk', 'd2', '--name', 'file-*', '/data'];
    const { found } = (await expectCli(0, find)).json<FilesFound>();
    expect(changesIn(found)).toEqual(
      Object.fromEntries(
        FILES.map((name) => [
          `/data/${name}`,
          POINTS.filter((number) => changedBefore(number).includes(name)).map((number) => `point ${number}`),
        ]),
      ),
    );

    const overlay = join(dir, 'overlay');
    const serving = await startServe(['--target', target, '--overlay', overlay]);
    const disks = serving.disks.map(({ disk, uri }) => ({ id: disk, file: uri, format: 'raw' as const }));
    const twin = await startQemu({ dir: join(dir, 'twin'), disks, guest: true });
    try {
      await mountPartition(twin);
      expect([await twin.guest.fileChecksums('/mnt/d1'), await twin.guest.fileChecksums('/mnt/d2')]).toEqual(had);
      await twin.guest.run('echo more >/mnt/d1/more');
      await twin.powerdown();
    } finally {
      await twin.kill();
    }
    expect(await serving.end()).toBe(0);
    const written = join(overlay, 'd1.qcow2');
    await checkFs(written);
    expect([...(await fileChecksums(written)).keys()]).toContain('more');
    expect(await photograph(target)).toEqual(before);
  },
);

interface FilesFound {
  readonly found: readonly {
    readonly path: string;
    readonly states: readonly { readonly point: string; readonly state: string }[];
  }[];
}

/** Of each file the points in which it is another than before. */
function changesIn(found: FilesFound['found']): Record<string, readonly string[]> {
  const changed = found.map(({ path, states }): [string, readonly string[]] => [
    path,
    states.filter(({ state }) => state !== 'same').map(({ point }) => point),
  ]);
  return Object.fromEntries(changed);
}

async function partitionOf(image: string): Promise<string> {
  const partition = `${image}-1`;
  await run('dd', [`if=${image}`, `of=${partition}`, `bs=${PARTITION_START}`, 'skip=1', 'status=none']);
  return partition;
}

async function checksumsIn(folder: string): Promise<ReadonlyMap<string, string>> {
  const names = (await readdir(folder)).toSorted();
  return new Map(
    await Promise.all(names.map(async (name): Promise<[string, string]> => [name, await sumOf(join(folder, name))])),
  );
}

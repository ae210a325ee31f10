import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { MiB } from '../support/builders.js';
import { photograph } from '../support/chains.js';
import { expectCli } from '../support/cli.js';
import { checkFs, fileChecksums } from '../support/lab/compare.js';
import { makeExt4 } from '../support/lab/disk-images.js';
import { makeLabDir, run } from '../support/lab/programs.js';
import { type GuestVm, startQemu } from '../support/lab/qemu.js';
import { patient } from '../support/patience.js';
import type { BackupAnswer } from '../support/scenario.js';
import { startServe } from '../support/serving.js';

/** Points of a guest that writes all the time, served: what is read there is what a restore writes, and a guest runs from it. */
const DISKS = ['d1', 'd2'] as const;
const INCREMENTS = 10;

let dir = '';
let vm: GuestVm;

beforeAll(async () => {
  dir = await makeLabDir();
  const disks = DISKS.map((id, index) => ({ id, label: `DATA${index + 1}`, file: join(dir, `${id}.qcow2`) }));
  for (const { file, label } of disks) await makeExt4({ file, label, format: 'qcow2', size: 64 * MiB });
  vm = await startQemu({ dir: join(dir, 'vm'), name: 'writer', disks, guest: { workload: ['writer'] } });
  await vm.guest.waitForWorkload('writer');
});
afterAll(async () => {
  await vm?.kill();
  await rm(dir, { recursive: true, force: true });
});

it(
  'each of FULL + 10 INC equals its restore bit for bit, and a second VM runs from the last',
  { timeout: patient(300_000) },
  async () => {
    const target = join(dir, 'target');
    const agent = ['--agent-socket', vm.agentSocket];
    const backup = ['--json', '--socket', vm.socket, ...agent, 'backup', '--target', target, '--quiesce=require'];
    let had: readonly unknown[] = [];
    for (let number = 0; number <= INCREMENTS; number += 1) {
      if (number === INCREMENTS) {
        await vm.guest.pauseWorkload();
        had = [await vm.guest.fileChecksums('/mnt/d1'), await vm.guest.fileChecksums('/mnt/d2')];
      }
      const { point } = (await expectCli(0, backup)).json<BackupAnswer>();
      expect(point).toMatchObject({ number, level: number === 0 ? 'full' : 'inc', consistency: 'filesystem' });
      for (const { changed } of point.disks) expect(changed).toBeGreaterThan(0);
      if (number < INCREMENTS) for (const mount of ['/mnt/d1', '/mnt/d2']) await vm.guest.untilWritten(mount);
    }
    const before = await photograph(target);
    for (let number = 0; number <= INCREMENTS; number += 1) {
      const [point, output] = [String(number), join(dir, `restored-${number}`)];
      await expectCli(0, ['restore', '--target', target, '--point', point, '--output', output, '--format', 'raw']);
      const serving = await startServe(['--target', target, '--point', point]);
      expect(serving.disks.map(({ disk }) => disk)).toEqual(DISKS);
      for (const { disk, uri } of serving.disks) {
        const copy = join(output, `${disk}.served`);
        await run('nbdcopy', [uri, copy]);
        await run('cmp', [copy, join(output, `${disk}.raw`)]);
        await checkFs(copy);
      }
      expect(await serving.end()).toBe(0);
      await rm(output, { recursive: true });
    }

    const overlay = join(dir, 'overlay');
    const serving = await startServe(['--target', target, '--overlay', overlay]);
    const disks = serving.disks.map(({ disk, uri }) => ({ id: disk, file: uri, format: 'raw' as const }));
    const twin = await startQemu({ dir: join(dir, 'twin'), disks, guest: true });
    try {
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

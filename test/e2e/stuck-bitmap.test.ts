import { readFile, rm, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { MiB } from '../support/builders.js';
import { expectCli } from '../support/cli.js';
import { crashCli } from '../support/crash-point.js';
import { compareImages } from '../support/lab/compare.js';
import { flush } from '../support/lab/guest-writes.js';
import { mountBounded } from '../support/mounts.js';
import { startPlainQemuNbd } from '../support/nbd-servers.js';
import { startBackup, untilConcluded, untilCopying, untilJobs } from '../support/running-backup.js';
import { patient } from '../support/patience.js';
import { afterTest, labDir, scenario, type Scenario, writeBoth, textsOf } from '../support/scenario.js';

// QEMU reads and writes an image to remove a bitmap that was ever stored there, and refuses where it cannot.

interface Journal {
  readonly disks: readonly { readonly disk: string; readonly bitmap: string | null }[];
}

interface Catalog {
  readonly retired: readonly string[];
}

const readTarget = async <T>(lab: Scenario, file: string): Promise<T> =>
  JSON.parse(await readFile(join(lab.target, file), 'utf8')) as T;

async function restarted(lab: Scenario): Promise<void> {
  await lab.vm.stop();
  await lab.restart();
}

it('a bitmap of a dead run in an image that cannot be written now is said of, holds up no backup, is no parent of any, and goes when its image can be written again', async () => {
  const storage = join(await labDir(), 'storage');
  const server = await mountBounded(storage);
  const lab = await scenario([{ id: 'd1', file: join(storage, 'd1.qcow2') }, { id: 'd2' }]);
  const args = ['--json', '--socket', lab.vm.socket, 'backup', '--level', 'inc', '--target', lab.target];
  const die = () => crashCli({ when: 'before', call: 'rename', matches: /catalog\.json$/ }, args);
  await writeBoth(lab, 0, 0x11, 4);
  await lab.backup('full');
  await writeBoth(lab, 4, 0x22);
  const sealed = await lab.bitmaps();
  await die();
  // What QEMU has stored of a bitmap it has to take out of the image.
  await restarted(lab);
  const left = await lab.bitmaps();
  const [stray] = (left['d1'] ?? []).filter((name) => !sealed['d1']?.includes(name));
  expect(left['d2']).toHaveLength(2);

  await server.bound(0);
  // The guest's own writes get through, or there is nothing to back up.
  const change = async (offset: number, pattern: number): Promise<void> => {
    await server.bound('unlimited');
    await writeBoth(lab, offset, pattern);
    await flush(lab.vm, 'd1');
    await server.bound(0);
  };
  const refused =
    /the bitmap \S+ cannot be removed from the disk .*: Failed to update bitmap extension: File too large\./;
  const recovered = await expectCli(0, ['recover', '--socket', lab.vm.socket, '--target', lab.target]);
  expect(recovered.stderr).toMatch(refused);
  expect((await readTarget<Journal>(lab, 'run.json')).disks).toMatchObject([{ disk: 'd1', bitmap: stray }]);
  expect(await lab.bitmaps()).toEqual({ ...sealed, d1: left['d1'] });

  // Another run that dies has a journal of its own, and that has to name it, too.
  await die();
  expect((await readTarget<Journal>(lab, 'run.json')).disks.map(({ bitmap }) => bitmap)).toContain(stray);

  await change(5, 0x33);
  const without = await expectCli(0, [...args, '--exclude', 'd1']);
  expect(without.stderr).toMatch(refused);
  expect((await readTarget<Catalog>(lab, 'catalog.json')).retired).toEqual([stray]);

  for (const number of [2, 3]) {
    await change(5 + number, 0x40 + number);
    const { point, warnings } = await lab.backup('inc');
    expect(point).toMatchObject({ number, disks: [{ level: 'inc' }, { level: 'inc' }] });
    expect(textsOf(warnings).join()).toMatch(refused);
    expect(warnings.map(({ code }) => code)).toEqual(['bitmap-stuck']);
    expect((await lab.bitmaps())['d1']).toContain(stray);
    await lab.expectChainEqualsDisks();
  }

  await server.bound('unlimited');
  await writeBoth(lab, 10, 0x55);
  expect((await lab.backup('inc')).warnings).toEqual([]);
  expect((await lab.bitmaps())['d1']).not.toContain(stray);
  await lab.expectChainEqualsDisks();
  await lab.expectNothingLeft(2);
  await restarted(lab);
  await writeBoth(lab, 20, 0x66);
  expect((await lab.backup('inc')).point.disks.map(({ level }) => level)).toEqual(['inc', 'inc']);
  await lab.expectChainEqualsDisks();
});

it('a disk whose storage goes while it is copied is left out, and goes on when the storage is back', async () => {
  const lab = await scenario();
  await writeBoth(lab, 0, 0x11, 4);
  await lab.backup('full');
  await lab.vm.stop();
  const image = join(lab.dir, 'd1.qcow2');
  // An export does not grow with the image.
  await truncate(image, 80 * MiB);
  const serve = () => startPlainQemuNbd(lab.dir, ['--format', 'raw', image]);
  let server = await serve();
  afterTest(() => server.stop());
  const nbd = {
    ...{ format: 'qcow2', 'file.driver': 'nbd', 'file.reconnect-delay': '1' },
    ...{ 'file.server.type': 'unix', 'file.server.path': join(lab.dir, 'qemu-nbd.sock') },
  };
  const [, other] = lab.vm.options.disks;
  await lab.restart({ disks: [{ id: 'd1', options: nbd }, ...(other ? [other] : [])] });
  await writeBoth(lab, 4, 0x22, 8);
  await flush(lab.vm, 'd1');
  const options = ['--skip-failed-disks', '--fleece', 'never'];
  const run = startBackup(lab, 'inc', ...options, '--speed-limit', '512K');
  await untilCopying(lab, run);
  await server.stop();
  await rm(join(lab.dir, 'qemu-nbd.pid'));
  await untilJobs(lab.vm, run, (jobs) => jobs.some(({ status }) => status === 'concluded'));
  await untilConcluded(lab.vm);
  const ending = await run.ended;
  expect(ending).toMatchObject({ exitCode: 3 });
  expect(ending.stderr).toContain('d1 is not in the backup: its copy failed: Input/output error');
  expect(ending.stderr).toMatch(/the bitmap \S+-d1-\S+ cannot be removed .*: Failed to read bitmap directory: Input/);
  const { retired } = await readTarget<Catalog>(lab, 'catalog.json');
  expect(retired).toMatchObject([expect.stringMatching(/-d1-/)]);

  const args = ['--socket', lab.vm.socket, 'backup', '--level', 'inc', '--target', lab.target, ...options];
  const untold = await expectCli(1, [...args, '--exclude', 'd1']);
  expect(untold.stderr).toMatch(/QEMU tells of none of the VM's disks: Failed to read bitmap directory/);
  expect(untold.stderr).toMatch(/hint: .*no change is lost/);

  server = await serve();
  // QEMU connects again at some later request.
  for (const until = Date.now() + patient(30_000); ; await sleep(500)) {
    try {
      await writeBoth(lab, 12, 0x33);
      break;
    } catch (error) {
      if (Date.now() > until) throw error;
    }
  }
  await flush(lab.vm, 'd1');
  const whole = await lab.backup('inc', ...options);
  expect(whole.point.disks.map(({ level }) => level)).toEqual(['inc', 'inc']);
  expect(Object.values(await lab.bitmaps()).flat()).not.toContain(retired[0]);
  const output = join(lab.dir, 'restored');
  await expectCli(0, ['restore', '--target', lab.target, '--output', output]);
  await lab.vm.stop();
  for (const id of ['d1', 'd2']) await compareImages(join(output, `${id}.qcow2`), join(lab.dir, `${id}.qcow2`));
});

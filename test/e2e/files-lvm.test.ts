import { mkdir, open, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';
import { MiB } from '../support/builders.js';
import { photograph } from '../support/chains.js';
import { expectCli } from '../support/cli.js';
import { changeFiles, NAMES, sumOf } from '../support/guest-disk.js';
import { guestfish, guestfsEnv } from '../support/guestfs-appliance.js';
import { writeFile as writeRange } from '../support/lab/guest-writes.js';
import { run } from '../support/lab/programs.js';
import { daemonsOf, mountsBelow } from '../support/mounting.js';
import { labDir, scenario, type Scenario } from '../support/scenario.js';
import { patient } from '../support/patience.js';

// Every start of libguestfs's appliance takes half a minute without KVM: one makes the disks of all points, one reads each point.

const SIZE = 512 * MiB;
const PIECE = 4 * MiB;

let appliance: NodeJS.ProcessEnv = {};
beforeAll(async () => {
  appliance = await guestfsEnv();
}, patient(300_000));

/** Writes what two images differ in, as a guest would. */
async function writeChanges(lab: Scenario, image: string, before: string | undefined): Promise<void> {
  const [now, old] = await Promise.all([open(image), before === undefined ? null : open(before)]);
  const piece = join(lab.dir, 'piece');
  for (let at = 0; at < SIZE; at += PIECE) {
    const [wanted, had] = [Buffer.alloc(PIECE), Buffer.alloc(PIECE)];
    await now.read(wanted, 0, PIECE, at);
    await old?.read(had, 0, PIECE, at);
    if (wanted.equals(had)) continue;
    const out = await open(piece, 'w');
    await out.write(wanted);
    await out.close();
    await writeRange(lab.vm, 'd1', { offset: at, length: PIECE, file: piece });
  }
  await now.close();
  await old?.close();
}

it(
  'gets files of ext4 and xfs on logical volumes right at three points, in one session for each',
  async () => {
    const lab = await scenario([{ id: 'd1', size: SIZE }]);
    const env = { ...appliance, TMPDIR: await labDir() };
    const disk = join(lab.dir, 'lvm.raw');
    await run('truncate', ['-s', String(SIZE), disk]);
    const [states, images] = [0, 1, 2]
      .map((point) => join(lab.dir, `state-${point}`))
      .reduce<[string[], string[]]>(
        ([folders, copies], folder) => [
          [...folders, folder],
          [...copies, `${folder}.raw`],
        ],
        [[], []],
      );
    for (const [point, folder] of states.entries()) {
      if (point > 0) await run('cp', ['-a', states[point - 1]!, folder]);
      await changeFiles(folder, point === 0 ? NAMES.map((_, index) => index) : [point, 10 + point]);
    }
    const changes = states.flatMap((folder, point) => [
      ...(point === 0 ? [] : ['vg-activate-all true']),
      ...['root', 'data'].flatMap((volume) => [
        `mount /dev/vg0/${volume} /`,
        `copy-in ${folder}/data /`,
        ...(volume === 'data' && point === 0 ? ['mv /data /on-xfs', 'ln-s /etc/passwd /on-xfs/link'] : []),
        ...(volume === 'data' && point > 0 ? ['rm-rf /on-xfs-old', 'mv /on-xfs /on-xfs-old', 'mv /data /on-xfs'] : []),
        'umount /',
      ]),
      'vg-activate-all false',
      'sync',
      `! cp --sparse=always ${disk} ${images[point]}`,
    ]);
    const make = ['part-disk /dev/sda gpt', 'pvcreate /dev/sda1', 'vgcreate vg0 /dev/sda1', 'lvcreate root vg0 100'];
    await guestfish(
      [disk],
      [...make, 'lvcreate data vg0 310', 'mkfs ext4 /dev/vg0/root', 'mkfs xfs /dev/vg0/data', ...changes],
      env,
    );
    for (const [point, image] of images.entries()) {
      await writeChanges(lab, image, images[point - 1]);
      await lab.backup(point === 0 ? 'full' : 'inc');
    }

    const before = await photograph(lab.target);
    for (const [point, state] of states.entries()) {
      const output = join(lab.dir, `got-${point}`);
      await mkdir(output);
      const args = ['--target', lab.target, '--point', `${point}`, '-o', output, '/data', '/on-xfs'];
      const got = await expectCli(0, ['files', 'get', ...args], { env, timeout: patient(300_000) });
      expect(got.stderr.match(/starting the appliance/g)).toHaveLength(1);
      for (const folder of ['data', 'on-xfs']) {
        expect((await readdir(join(output, folder))).filter((name) => name !== 'link').toSorted()).toEqual(
          NAMES.toSorted(),
        );
        for (const name of NAMES) {
          expect(await sumOf(join(output, folder, name)), `${folder}/${name} of ${point}`).toBe(
            await sumOf(join(state, 'data', name)),
          );
        }
      }
    }
    const volumes = await expectCli(0, ['files', 'ls', '--target', lab.target], { env });
    expect(volumes.stdout).toContain('its volumes: --reader guestfs');
    const refused = await expectCli(1, ['files', 'ls', '--target', lab.target, '--reader', 'sleuthkit', '/data'], {
      env,
    });
    expect(refused.stderr).toContain('d1, partition 1: lvm');
    expect(await photograph(lab.target)).toEqual(before);
    expect(await readdir(env.TMPDIR)).toEqual([]);
    expect([mountsBelow(env.TMPDIR), await daemonsOf(env.TMPDIR)]).toEqual([[], []]);
  },
  patient(600_000),
);

it('both readers find the partitions of a disk with sectors of 4096 bytes', { timeout: patient(300_000) }, async () => {
  const lab = await scenario([{ id: 'd1', size: 64 * MiB }]);
  const env = { ...appliance, TMPDIR: await labDir() };
  const [disk, state, image] = ['disk.raw', 'state', 'ext4.raw'].map((name) => join(lab.dir, name)) as [
    string,
    string,
    string,
  ];
  await run('truncate', ['-s', String(64 * MiB), disk]);
  await run('sh', ['-c', `printf 'g\\nn\\n1\\n512\\n8703\\nw\\n' | fdisk --sector-size 4096 "$0"`, disk]);
  await changeFiles(state, [1]);
  await run('mke2fs', ['-q', '-t', 'ext4', '-b', '4096', '-d', state, image, '32M']);
  await run('dd', [`if=${image}`, `of=${disk}`, 'bs=2M', 'seek=1', 'conv=notrunc', 'status=none']);
  await writeRange(lab.vm, 'd1', { offset: 0, length: 64 * MiB, file: disk });
  await lab.backup('full');
  for (const reader of ['sleuthkit', 'guestfs']) {
    const output = join(lab.dir, reader);
    const args = ['--target', lab.target, '--partition', '1', '--reader', reader, '-o', output, '/data/file-1.bin'];
    await expectCli(0, ['files', 'get', ...args], { env, timeout: patient(300_000) });
    expect(await sumOf(join(output, 'file-1.bin'))).toBe(await sumOf(join(state, 'data/file-1.bin')));
  }
});

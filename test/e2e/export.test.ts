import { execa } from 'execa';
import { open, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { MiB } from '../support/builders.js';
import { ensureBuilt } from '../support/built.js';
import { photograph } from '../support/chains.js';
import { expectCli, PROGRAM, qmpbackup, startCli } from '../support/cli.js';
import { compareImages } from '../support/lab/compare.js';
import { write } from '../support/lab/guest-writes.js';
import { mountSmall } from '../support/mounts.js';
import { patient } from '../support/patience.js';
import { type Scenario, scenario } from '../support/scenario.js';
import { straysOf } from '../support/target-files.js';

/** A chain goes through a pipe: both targets hold the same points, and either may take the next backup of the VM. */
beforeAll(ensureBuilt, patient(180_000));

interface ListedPoint {
  readonly id: string;
  readonly number: number;
  readonly level: string;
}

interface Listed {
  readonly targets: readonly {
    readonly targetId: string;
    readonly points: readonly { readonly point: ListedPoint }[];
  }[];
}

async function pointsOf(target: string): Promise<readonly ListedPoint[]> {
  const listed = (await expectCli(0, ['list', '--json', '--target', target])).json<Listed>();
  return listed.targets[0]?.points.map(({ point: each }) => each) ?? [];
}

async function namesOf(target: string): Promise<readonly string[]> {
  return (await pointsOf(target)).map(({ id, number }) => `${id} ${number}`);
}

/** `export … | import …`, as a shell has it. */
async function replicate(from: string, to: string, ...more: readonly string[]): Promise<void> {
  const run = `${process.execPath} ${PROGRAM}`;
  const line = `${run} export --target ${from} --output - ${more.join(' ')} | ${run} import --from export - --target ${to}`;
  await execa('bash', ['-o', 'pipefail', '-c', line], { timeout: patient(120_000) });
}

async function chain(lab: Scenario, increments: number): Promise<void> {
  await write(lab.vm, 'd1', { offset: 0, length: 6 * MiB, pattern: 1 });
  await lab.backup('full');
  for (let number = 1; number <= increments; number += 1) await increment(lab, number, lab.target);
}

async function increment(lab: Scenario, number: number, target: string): Promise<void> {
  await write(lab.vm, 'd1', { offset: number * 65_536 * 3, length: 100_000, pattern: number + 1 });
  await write(lab.vm, 'd2', { offset: number * 1_000_000, length: 70_000, pattern: number + 1 });
  await lab.backup('inc', '--target', target);
}

async function expectSamePoint(lab: Scenario, number: number, one: string, other: string): Promise<void> {
  const places = await Promise.all(
    [one, other].map(async (target) => {
      const output = join(lab.dir, `of-${Math.random().toString(36).slice(2)}`);
      await expectCli(0, ['restore', '--target', target, '--output', output, '--point', `${number}`]);
      return output;
    }),
  );
  const [first = '', second = ''] = places;
  for (const disk of ['d1', 'd2']) await compareImages(join(first, `${disk}.qcow2`), join(second, `${disk}.qcow2`));
  for (const place of places) await rm(place, { recursive: true });
}

describe('export and import', () => {
  it(
    'replicate a chain, then only what is missing, and the copy takes over',
    async () => {
      const lab = await scenario();
      const copy = join(lab.dir, 'copy');
      await chain(lab, 10);
      await replicate(lab.target, copy);
      expect(await namesOf(copy)).toEqual(await namesOf(lab.target));

      await increment(lab, 11, lab.target);
      const newest = (await pointsOf(copy)).at(-1)?.id ?? '';
      await replicate(lab.target, copy, '--since', newest);
      // Once more takes nothing in.
      await replicate(lab.target, copy, '--since', newest);
      const ids = (await pointsOf(lab.target)).map(({ id }) => id);
      expect((await pointsOf(copy)).map(({ id }) => id)).toEqual(ids);
      for (const number of [0, 1, 7, 11]) await expectSamePoint(lab, number, lab.target, copy);
      await expectCli(0, ['verify', '--target', copy, '--read-data']);
      expect(straysOf(await readdir(copy, { recursive: true }))).toEqual([]);

      // The VM's next backup goes into the copy, incrementally.
      await increment(lab, 12, copy);
      await lab.expectChainEqualsDisks(copy);
      const refused = await qmpbackup(['--socket', lab.vm.socket, 'backup', '--level', 'inc', '--target', lab.target]);
      expect(refused.exitCode).toBe(13);
      expect(refused.stderr).toContain('is gone');

      // Whoever tidies up by the old target takes nothing from the copy.
      const bitmaps = await lab.bitmaps();
      await expectCli(0, ['--socket', lab.vm.socket, 'recover', '--target', lab.target]);
      await expectCli(0, ['--socket', lab.vm.socket, 'cleanup', '--remove-bitmaps', '--stale', '--target', lab.target]);
      expect(await lab.bitmaps()).toEqual(bitmaps);
      await increment(lab, 13, copy);

      // And back: what the copy got since goes to where it came from, which is current again.
      await replicate(copy, lab.target, '--since', '11');
      await increment(lab, 14, lab.target);
      await lab.expectChainEqualsDisks();
      const diverged = join(lab.dir, 'none.tar');
      await expectCli(0, ['export', '--target', copy, '--output', diverged]);
      await increment(lab, 15, lab.target);
    },
    patient(300_000),
  );

  it(
    'refuse targets that are no copy, and points that something is missing below',
    async () => {
      const lab = await scenario();
      await chain(lab, 2);
      const [copy, archive, since] = ['copy', 'all.tar', 'since.tar'].map((name) => join(lab.dir, name)) as [
        string,
        string,
        string,
      ];
      await expectCli(0, ['export', '--target', lab.target, '--output', archive]);
      await expectCli(0, ['export', '--target', lab.target, '--since', '1', '--output', since]);
      const taken = await expectCli(13, ['export', '--target', lab.target, '--output', archive]);
      expect(taken.stderr).toContain('exists already');
      const gap = await expectCli(13, ['import', '--from', 'export', since, '--target', copy]);
      expect(gap.stderr).toContain('points are missing');
      expect(await readdir(lab.dir)).not.toContain('copy');

      await expectCli(0, ['import', '--from', 'export', archive, '--target', copy]);
      // Both go on by themselves.
      await lab.backup('full', '--target', copy);
      await lab.backup('full');
      await expectCli(0, ['export', '--target', lab.target, '--output', join(lab.dir, 'later.tar')]);
      const before = await photograph(copy);
      const diverged = await expectCli(13, [
        'import',
        '--from',
        'export',
        join(lab.dir, 'later.tar'),
        '--target',
        copy,
      ]);
      expect(diverged.stderr).toContain('gone their own ways');
      expect(await photograph(copy)).toEqual(before);
      await lab.backup('copy', '--target', join(lab.dir, 'other'));
      const other = await expectCli(13, ['import', '--from', 'export', archive, '--target', join(lab.dir, 'other')]);
      expect(other.stderr).toContain('no point in common');
    },
    patient(180_000),
  );

  it(
    'one point comes with what it builds on, and nothing else',
    async () => {
      const lab = await scenario();
      await chain(lab, 3);
      await lab.backup('copy');
      const copy = join(lab.dir, 'copy');
      await replicate(lab.target, copy, '--point', '2');
      expect((await pointsOf(copy)).map(({ number, level }) => `${level} ${number}`)).toEqual([
        'full 0',
        'inc 1',
        'inc 2',
      ]);
      await expectSamePoint(lab, 2, lab.target, copy);
      await replicate(lab.target, copy);
      expect((await pointsOf(copy)).map(({ id }) => id)).toEqual((await pointsOf(lab.target)).map(({ id }) => id));
    },
    patient(180_000),
  );
});

describe('an archive on its way', () => {
  it(
    'leaves nothing where it was cut anywhere, or changed anywhere',
    async () => {
      const lab = await scenario([{ id: 'd1', size: MiB }]);
      await write(lab.vm, 'd1', { offset: 0, length: 300_000, pattern: 1 });
      await lab.backup('full');
      const [archive, copy, bad] = ['all.tar', 'copy', 'bad.tar'].map((name) => join(lab.dir, name)) as [
        string,
        string,
        string,
      ];
      await expectCli(0, ['export', '--target', lab.target, '--output', archive]);
      const whole = await readFile(archive);
      const tries: Buffer[] = [];
      for (const part of [
        0,
        511,
        1024,
        5000,
        whole.length / 2,
        whole.length - 3000,
        whole.length - 1025,
        whole.length - 512,
      ]) {
        tries.push(whole.subarray(0, Math.floor(part)));
      }
      for (const at of [3, 300, 1600, 4000, whole.length / 2, whole.length - 4000, whole.length - 1536 + 20]) {
        const changed = Buffer.from(whole);
        changed.writeUInt8((changed[Math.floor(at)] ?? 0) ^ 4, Math.floor(at));
        tries.push(changed);
      }
      for (const [index, bytes] of tries.entries()) {
        await writeFile(bad, bytes);
        const { exitCode, stderr } = await qmpbackup(['import', '--from', 'export', bad, '--target', copy]);
        expect([4, 13], `try ${index}: ${stderr}`).toContain(exitCode);
        expect(await readdir(lab.dir)).not.toContain('copy');
      }
      await expectCli(0, ['import', '--from', 'export', archive, '--target', copy]);
    },
    patient(180_000),
  );

  it(
    'whose importer is killed leaves a copy that is as it was, and the next import goes through',
    async () => {
      const lab = await scenario();
      await chain(lab, 1);
      const [archive, copy] = [join(lab.dir, 'all.tar'), join(lab.dir, 'copy')];
      await replicate(lab.target, copy);
      await increment(lab, 2, lab.target);
      await expectCli(0, ['export', '--target', lab.target, '--output', archive]);
      const bytes = await readFile(archive);
      for (const part of [0.5, 0.9, 1]) {
        const run = startCli(['import', '--from', 'export', '-', '--target', copy]);
        run.stdin.write(bytes.subarray(0, Math.floor((bytes.length - 600) * part)));
        await expect.poll(() => readdir(copy), { timeout: patient(30_000) }).toContain('run.json');
        run.kill('SIGKILL');
        await run;
        expect((await pointsOf(copy)).map(({ number }) => number)).toEqual([0, 1]);
      }
      await expectCli(0, ['import', '--from', 'export', archive, '--target', copy]);
      expect(straysOf(await readdir(copy, { recursive: true }))).toEqual([]);
      await expectSamePoint(lab, 2, lab.target, copy);
    },
    patient(180_000),
  );

  it(
    'that finds the disk full leaves what was there, and goes through when it is run again',
    async () => {
      const lab = await scenario();
      await chain(lab, 1);
      const small = join(lab.dir, 'small');
      const space = await mountSmall(small, 48 * MiB);
      const [archive, copy] = [join(lab.dir, 'all.tar'), join(small, 'copy')];
      const importing = ['import', '--from', 'export', archive, '--target', copy];
      await expectCli(0, ['export', '--target', lab.target, '--output', archive]);
      for (const room of [0, 4096, 4 * MiB]) {
        await space.fillBut(room);
        const { stderr } = await expectCli(1, importing);
        expect(stderr).toMatch(/no space|disk is full|space left/i);
        expect(await readdir(small)).toEqual(['somebody-else']);
        await space.empty();
      }
      await expectCli(0, importing);
      await increment(lab, 2, lab.target);
      await rm(archive);
      await expectCli(0, ['export', '--target', lab.target, '--output', archive]);
      const before = await photograph(copy);
      for (const room of [0, 4096, 64 * 1024]) {
        await space.fillBut(room);
        await expectCli(1, importing);
        expect(await photograph(copy)).toEqual(before);
        await space.empty();
      }
      await expectCli(0, importing);
      await expectSamePoint(lab, 2, lab.target, copy);
    },
    patient(180_000),
  );

  it(
    'is not written to its end where a file is no longer what was sealed, or its reader goes',
    async () => {
      const lab = await scenario();
      await chain(lab, 1);
      const copy = join(lab.dir, 'copy');
      await replicate(lab.target, copy);
      await increment(lab, 2, lab.target);
      const program = startCli(['export', '--target', lab.target, '--output', '-']);
      program.stdout.destroy();
      expect((await program).exitCode).toBe(1);
      expect((await readdir(lab.target)).filter((name) => name.startsWith('open-'))).toEqual([]);

      const folder = join(lab.target, 'd1');
      const [image = ''] = (await readdir(folder)).filter((name) => name.startsWith('FULL') && name.endsWith('.qcow2'));
      const handle = await open(join(folder, image), 'r+');
      await handle.write(Buffer.from('!'), 0, 1, 400_000);
      await handle.close();
      const archive = join(lab.dir, 'all.tar');
      const damaged = await expectCli(4, ['export', '--target', lab.target, '--output', archive]);
      expect(damaged.stderr).toContain(image);
      expect((await readdir(lab.dir)).filter((name) => name.includes('all.tar'))).toEqual([]);
      // What came since is whole, and the copy has what it builds on.
      await expectCli(4, ['verify', '--target', lab.target, '--read-data']);
      await expectCli(4, ['export', '--target', lab.target, '--output', archive]);
      await replicate(lab.target, copy, '--since', '1');
      await expectCli(0, ['verify', '--target', copy, '--read-data']);
      await lab.expectChainEqualsDisks(copy);
      await truncate(join(folder, image), 1000);
      await expectCli(13, ['export', '--target', lab.target, '--output', archive]);
    },
    patient(120_000),
  );
});

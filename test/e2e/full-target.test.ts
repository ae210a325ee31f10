import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { expectSame, makeDisk, makeLab, pointsOf, record, rot } from '../support/chains.js';
import { expectCli, qmpbackup } from '../support/cli.js';
import { run } from '../support/lab/programs.js';
import { startMount } from '../support/mounting.js';
import { mountSmall } from '../support/mounts.js';
import { patient } from '../support/patience.js';
import { startServe } from '../support/serving.js';
import { imagesIn, straysOf } from '../support/target-files.js';
import { writeCatalog } from '../../src/repository/catalog-file.js';
import { point } from '../support/builders.js';

/** A page: what a file takes at least. */
const PAGE = 4096;
const [FULL, INC] = ['FULL-100.qcow2', 'INC-101.qcow2'] as const;

interface Answer {
  readonly targets: readonly {
    readonly findings: readonly { readonly code: string; readonly file: string | null }[];
  }[];
  readonly warnings: readonly { readonly code: string }[];
}

it('a target whose file system is full is read as any other', { timeout: patient(240_000) }, async () => {
  const lab = await makeLab();
  const entries = await makeDisk(lab, 'vda', [
    { file: FULL, io: ['write -P 1 0 2M'] },
    { file: INC, on: FULL, io: ['write -P 2 1M 1M'] },
  ]);
  await record(lab, pointsOf(entries));
  const small = join(lab.root, 'small');
  const target = join(small, 'target');
  const space = await mountSmall(small, 16 * 1024 * 1024);
  await run('cp', ['-a', lab.target, target]);
  const right = lab.flat('vda', INC);
  const told = new Set<string>();
  // With no room at all, with room for the lock alone, for a mark beside it, …
  for (const pages of [0, 1, 2, 3, 4, 5]) {
    await space.fillBut(pages * PAGE);
    const output = join(lab.root, `restored-${pages}`);
    await expectCli(0, ['restore', '--target', target, '--output', output]);
    await expectSame(join(output, 'vda.qcow2'), right);
    const serving = await startServe(['--target', target]);
    await run('qemu-img', ['compare', '-f', 'raw', serving.disks[0]!.uri, '-F', 'raw', right]);
    expect(await serving.end()).toBe(0);
    const mounting = await startMount(['--target', target, join(lab.root, 'mnt')]);
    await run('cmp', [mounting.disks[0]!.path, right]);
    expect(await mounting.end()).toBe(0);
    const verified = (await expectCli(0, ['--json', 'verify', '--target', target, '--read-data'])).json<Answer>();
    for (const { code } of [...serving.warnings, ...verified.warnings, ...verified.targets[0]!.findings])
      told.add(code);
    await space.empty();
    expect(straysOf(await readdir(target))).toEqual([]);
    expect((await readdir(target)).filter((name) => name.startsWith('open-'))).toEqual([]);
    await rm(join(target, 'verified.json'), { force: true });
  }
  expect([...told].toSorted()).toEqual(['memory-not-kept', 'not-locked']);

  // What is damaged is found and told as well, and never handed out with 0.
  await rot(join(target, 'vda', FULL));
  for (const pages of [0, 2, 3]) {
    await space.fillBut(pages * PAGE);
    const found = await qmpbackup(['--json', 'verify', '--target', target, '--read-data']);
    expect(found.exitCode).toBe(4);
    expect(found.json<Answer>().targets[0]!.findings).toContainEqual(
      expect.objectContaining({ code: 'damaged', file: FULL }),
    );
    await expectCli(4, ['restore', '--target', target, '--output', join(lab.root, 'none')]);
    await space.empty();
    await rm(join(target, 'verified.json'), { force: true });
  }
});

it('a target whose file system is full gets space again by prune', { timeout: patient(240_000) }, async () => {
  const lab = await makeLab();
  const files = ['FULL-100.qcow2', 'FULL-101.qcow2', 'FULL-102.qcow2'];
  const steps = files.map((file, at) => ({ file, io: [`write -P ${at + 1} 0 2M`] }));
  const points = (await makeDisk(lab, 'vda', steps)).map((each, at) =>
    point(0, [each], { chain: `chain${at}`, id: `${at}`.padEnd(12, 'b') }),
  );
  // As every backup does it: with both copies.
  const catalog = await record(lab, points.slice(0, 2));
  await writeCatalog(lab.target, { ...catalog, points });
  const small = join(lab.root, 'small');
  const target = join(small, 'target');
  const space = await mountSmall(small, 16 * 1024 * 1024);
  for (const pages of [0, 1, 2, 3]) {
    await run('cp', ['-a', lab.target, target]);
    await space.fillBut(pages * PAGE);
    await expectCli(0, ['prune', '--target', target, '--keep-last', '1']);
    expect(await imagesIn(join(target, 'vda'))).toEqual(files.slice(2));
    expect(straysOf(await readdir(target))).toEqual([]);
    expect(await readdir(target)).toContain('catalog-copy-1.json');
    const output = join(lab.root, `restored-${pages}`);
    await expectCli(0, ['restore', '--target', target, '--output', output]);
    await expectSame(join(output, 'vda.qcow2'), lab.flat('vda', files[2]!));
    await rm(target, { recursive: true });
    await space.empty();
  }
});

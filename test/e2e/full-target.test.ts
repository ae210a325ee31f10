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
import { straysOf } from '../support/target-files.js';

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

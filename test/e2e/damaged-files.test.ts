import type { Warning } from '../../src/core/warning.js';
import { readdir, rename, rm, symlink, truncate, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { expectCli } from '../support/cli.js';
import { startBackup, untilCopying } from '../support/running-backup.js';
import { type Scenario, withFull, writeBoth, textsOf } from '../support/scenario.js';
import { imagesIn } from '../support/target-files.js';

// Files that are gone or have another size are noticed by whoever looks at a target, long before somebody has to restore.

interface Listed {
  readonly targets: readonly {
    readonly warnings: readonly Warning[];
    readonly points: readonly {
      readonly notWhole: string | null;
      readonly damaged: readonly { readonly disk: string; readonly file: string; readonly why: string }[];
    }[];
  }[];
}

/** An older chain of FULL and INC, and a newer one. */
async function withTwoChains(): Promise<Scenario & { readonly old: readonly string[] }> {
  const lab = await withFull();
  await writeBoth(lab, 3, 0x22);
  await lab.backup('inc');
  const old = await imagesIn(join(lab.target, 'd1'));
  await lab.backup('full');
  return Object.assign(lab, { old });
}

async function list(lab: Scenario): Promise<Listed['targets'][number]> {
  const { targets } = (await expectCli(0, ['--json', 'list', '--target', lab.target])).json<Listed>();
  return targets[0]!;
}

async function said(lab: Scenario): Promise<{ list: string; warned: string; doctor: string; backup: string }> {
  const args = ['--socket', lab.vm.socket];
  const listed = await expectCli(0, ['list', '--target', lab.target]);
  return {
    list: listed.stdout,
    warned: listed.stderr,
    doctor: (await expectCli(0, [...args, 'doctor', '--target', lab.target])).stdout,
    backup: (await expectCli(0, [...args, 'backup', '--level', 'auto', '--target', lab.target])).stderr,
  };
}

describe('a file of an older chain', () => {
  it('that is gone: its points are not restorable; list, doctor and every backup name it', async () => {
    const lab = await withTwoChains();
    const [full] = lab.old as [string, string];
    await rm(join(lab.target, 'd1', full));
    const { points, warnings } = await list(lab);
    const damage = { disk: 'd1', file: `d1/${full}`, why: 'it is missing' };
    expect(points.map(({ damaged }) => damaged)).toEqual([[damage], [damage], []]);
    expect(points.map(({ notWhole }) => notWhole)).toEqual([
      `d1/${full}: it is missing`,
      `d1/${full}: it is missing`,
      null,
    ]);
    const words = new RegExp(`d1/${full}: it is missing. Lost with it is d1 of point \\w+:0, point \\w+:1`);
    expect(warnings).toEqual([{ code: 'files-damaged', text: expect.stringMatching(words) as string }]);
    for (const strict of [['list'], ['--socket', lab.vm.socket, 'doctor']]) {
      await expectCli(5, ['--strict', ...strict, '--target', lab.target]);
    }
    for (let again = 0; again < 2; again += 1) {
      const all = await said(lab);
      expect(all.list.match(/NOT RESTORABLE/g)).toHaveLength(2);
      for (const text of [all.warned, all.doctor, all.backup]) expect(text).toMatch(words);
      // It is no parent: the new chain goes on.
      expect(all.backup).toMatch(/d1: INC/);
    }
    const run = await lab.backup('inc', '--dry-run');
    expect(textsOf(run.warnings)).toEqual([expect.stringMatching(words)]);
    // What does not need it is restored as ever, and what does is refused by its name.
    await lab.expectChainEqualsDisks();
    const out = ['--output', join(lab.dir, 'out'), '--point', `${await chainOf(lab)}:1`];
    expect((await expectCli(13, ['restore', '--target', lab.target, ...out])).stderr).toContain(full);
  });

  it('that has another size, even with its time put back; one that is a link; and a folder that is away', async () => {
    const lab = await withTwoChains();
    const [full, inc] = lab.old as [string, string];
    const path = join(lab.target, 'd1', inc);
    await truncate(path, 4096);
    await utimes(path, 1, 1);
    expect(textsOf((await list(lab)).warnings)).toEqual([
      expect.stringMatching(
        new RegExp(`d1/${inc}: it has 4096 bytes, the catalog says \\d+. Lost .* is d1 of point \\w+:1`),
      ),
    ]);
    await rename(join(lab.target, 'd2', full), join(lab.dir, 'away'));
    await symlink(join(lab.dir, 'away'), join(lab.target, 'd2', full));
    const all = await said(lab);
    expect(all.warned).toContain(`d2/${full}: it is no regular file`);
    expect(all.backup).toContain('it has 4096 bytes');
    await rename(join(lab.target, 'd2'), join(lab.dir, 'd2-away'));
    expect((await said(lab)).backup).toMatch(/d2: FULL, its earlier backup cannot be built on/);
    expect((await list(lab)).points[0]?.damaged).toContainEqual({
      disk: 'd2',
      file: `d2/${full}`,
      why: 'it is missing',
    });
  });

  it('keeps its name while its folder is away, and is whole when the folder is back', async () => {
    const lab = await withFull();
    const [folder, away] = [join(lab.target, 'd2'), join(lab.dir, 'd2-away')];
    // Ahead of the clock, as after some runs within one second.
    const number = 4102444800;
    await writeFile(join(folder, `FULL-${number}.other`), '');
    await lab.backup('full');
    await rename(folder, away);
    await lab.backup('auto');
    await writeBoth(lab, 5, 0x55);
    await lab.backup('inc');
    expect(await imagesIn(folder)).toEqual([`FULL-${number + 2}.qcow2`, `INC-${number + 3}.qcow2`]);
    for (const file of await readdir(away)) await rename(join(away, file), join(folder, file));
    expect((await list(lab)).points.map(({ damaged }) => damaged)).toEqual([[], [], [], []]);
    await lab.expectChainEqualsDisks();
  });

  it('and nothing is said where nothing is wrong, also in a copied target', async () => {
    const lab = await withTwoChains();
    await expectCli(0, ['list', '--target', lab.target]);
    for (const folder of ['d1', 'd2']) {
      for (const file of await readdir(join(lab.target, folder))) await utimes(join(lab.target, folder, file), 7, 7);
    }
    const all = await said(lab);
    expect(all.warned + all.backup).not.toContain('warning');
    expect(all.list).not.toContain('NOT RESTORABLE');
  });
});

async function chainOf(lab: Scenario): Promise<string> {
  const { stdout } = await expectCli(0, ['list', '--target', lab.target]);
  return /^(\w+):0 /m.exec(stdout)?.[1] ?? 'none';
}

describe('a new image that is taken away while it is written', () => {
  it('is said as such, and the chain goes on', async () => {
    const lab = await withFull();
    await writeBoth(lab, 3, 0x22, 8);
    const running = startBackup(lab, 'inc', '--speed-limit', '2M');
    await untilCopying(lab, running);
    const folder = join(lab.target, 'd1');
    const [partial = 'none'] = (await readdir(folder)).filter((name) => name.endsWith('.partial'));
    await rm(join(folder, partial));
    const { exitCode, stderr } = await running.ended;
    expect({ exitCode, stderr }).toEqual({
      exitCode: 1,
      stderr: expect.stringMatching(
        /d1: the new image was gone before it was sealed: .*\.partial\n.*hint: No point was made/,
      ) as string,
    });
    expect(stderr).not.toMatch(/ENOENT|^ +at /m);
    await lab.backup('inc');
    await lab.expectChainEqualsDisks();
  });
});

import { cp, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { requireCatalog } from '../../src/repository/catalog-file.js';
import { makeDisk, makeLab, pointsOf, record } from '../support/chains.js';
import { expectCli } from '../support/cli.js';
import { labDir } from '../support/scenario.js';

it('a VM whose catalog is damaged is named by list, prune, consolidate and status, and hides and holds up no other', async () => {
  const lab = await makeLab();
  const steps = [0, 1, 2].map((n) => ({
    ...{ file: n === 0 ? 'FULL-10.qcow2' : `INC-1${n}.qcow2`, size: 4, io: [`write -P ${n + 1} ${n}M 64k`] },
    ...(n === 0 ? {} : { on: n === 1 ? 'FULL-10.qcow2' : 'INC-11.qcow2' }),
  }));
  await record(lab, pointsOf(await makeDisk(lab, 'd1', steps)));
  const root = await labDir();
  for (const vm of ['broken', 'one', 'two']) await cp(lab.target, join(root, vm), { recursive: true });
  await writeFile(join(root, 'broken', 'catalog.json'), '{');

  const listed = await expectCli(3, ['list', '-t', root]);
  expect(listed.stdout).toContain(`${join(root, 'broken')}  NOT LISTED, `);
  expect(listed.stdout.match(/3 points/g)).toHaveLength(2);
  interface Listed {
    readonly targets: readonly { readonly target: string }[];
    readonly unread: readonly { readonly target: string; readonly why: string }[];
  }
  const { targets, unread } = (await expectCli(3, ['list', '--json', '-t', root])).json<Listed>();
  expect(targets.map(({ target }) => target)).toEqual([join(root, 'one'), join(root, 'two')]);
  expect(unread).toEqual([
    expect.objectContaining({
      target: join(root, 'broken'),
      why: expect.stringContaining('catalog.json is damaged') as string,
    }),
  ]);
  expect((await expectCli(13, ['list', '-t', join(root, 'broken')])).stderr).toContain('catalog.json is damaged');

  expect((await expectCli(2, ['consolidate', '-t', root, '--until', '1'])).stderr).toContain('backups of 3 VMs');
  const merged = await expectCli(3, ['consolidate', '-t', root, '--keep', '2']);
  expect(merged.stdout).toMatch(/broken .*: not consolidated, .*catalog\.json is damaged/);
  for (const vm of ['one', 'two']) expect((await requireCatalog(join(root, vm))).points).toHaveLength(2);
  const pruned = await expectCli(3, ['prune', '-t', root, '--keep-last', '1', '--consolidate']);
  expect(pruned.stdout).toMatch(/broken .*: not pruned, .*catalog\.json is damaged/);
  await expectCli(3, ['list', '-t', root]);

  interface Judged {
    readonly vms: readonly { readonly target: string; readonly level: string }[];
  }
  const status = (await expectCli(2, ['--json', 'status', '-t', root])).json<Judged>();
  expect(status.vms.map((each) => `${each.target.slice(root.length)} ${each.level}`).toSorted()).toEqual([
    '/broken critical',
    '/one ok',
    '/two ok',
  ]);
});

import { cp, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { makeDisk, makeLab, photograph, pointsOf, record } from '../support/chains.js';
import { expectCli } from '../support/cli.js';
import { lockFromElsewhere } from '../support/lock-elsewhere.js';
import { labDir, scenario } from '../support/scenario.js';

interface Marked {
  readonly target: string;
  readonly point: { readonly id: string; readonly pinned: boolean; readonly note: string | null };
  readonly name: string;
  readonly changed: boolean;
}

interface Raw {
  schema: number;
  tool: string;
  points: { id: string; createdAt: string; pinned?: true; note?: string }[];
}

async function catalogOf(target: string): Promise<Raw> {
  return JSON.parse(await readFile(join(target, 'catalog.json'), 'utf8')) as Raw;
}

/** A FULL and two increments of one disk. */
async function chain(): Promise<string> {
  const lab = await makeLab();
  const entries = await makeDisk(lab, 'd1', [
    { file: 'FULL-1.qcow2', io: ['write -P 1 0 1M'] },
    { file: 'INC-2.qcow2', on: 'FULL-1.qcow2', io: ['write -P 2 1M 1M'] },
    { file: 'INC-3.qcow2', on: 'INC-2.qcow2', io: ['write -P 3 2M 1M'] },
  ]);
  await record(lab, pointsOf(entries));
  return lab.target;
}

describe('backup --note, and pin, unpin and note', () => {
  it('keep what was said with the point, and list shows it', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    await lab.backup('full', '--note', 'before the upgrade');
    await lab.backup('inc');
    const list = async (): Promise<string> => (await expectCli(0, ['list', '-t', lab.target])).stdout;
    expect(await list()).toMatch(/DISKS +NOTE\n.*d1 +before the upgrade\n.*d1$/m);

    const { point, changed, target } = (
      await expectCli(0, ['--json', 'pin', '0', '-t', lab.target, '--note', 'never drop'])
    ).json<Marked>();
    expect([point.pinned, point.note, changed, target]).toEqual([true, 'never drop', true, lab.target]);
    expect(await list()).toMatch(/ pinned: never drop$/m);
    // The next backup goes on with it, and does not lose it.
    await lab.backup('inc');
    expect((await catalogOf(lab.target)).points.map(({ pinned, note }) => [pinned, note])).toEqual([
      [true, 'never drop'],
      [undefined, undefined],
      [undefined, undefined],
    ]);
    await lab.expectChainEqualsDisks();
  });

  it('write another schema only while there is something that an older program would drop', async () => {
    const target = await chain();
    expect((await catalogOf(target)).schema).toBe(1);
    await expectCli(0, ['pin', 'latest', '-t', target]);
    expect(await catalogOf(target)).toMatchObject({
      schema: 2,
      tool: expect.stringMatching(/^qmpbackup \d/) as string,
    });
    const before = await photograph(target);
    const again = (await expectCli(0, ['--json', 'pin', 'latest', '-t', target])).json<Marked>();
    expect(again.changed).toBe(false);
    expect(await photograph(target)).toEqual(before);
    await expectCli(0, ['note', 'latest', 'x', '-t', target]);
    await expectCli(0, ['unpin', '2', '-t', target]);
    expect((await catalogOf(target)).points[2]).toMatchObject({ note: 'x' });
    expect((await catalogOf(target)).schema).toBe(2);
    await expectCli(0, ['note', 'latest~0', '--remove', '-t', target]);
    expect((await catalogOf(target)).schema).toBe(1);
  });

  it('say which version a newer catalog needs', async () => {
    const target = await chain();
    const path = join(target, 'catalog.json');
    await writeFile(path, JSON.stringify({ ...(await catalogOf(target)), schema: 3, tool: 'qmpbackup 7.1.0' }));
    const refused = await expectCli(13, ['list', '-t', target]);
    expect(refused.stderr).toContain('its schema is 3, this version knows 2; qmpbackup 7.1.0 wrote it');
  });

  it('name a point by its number, its id and a time, and refuse the rest with nothing changed', async () => {
    const target = await chain();
    const before = await photograph(target);
    const refusals: readonly (readonly [number, readonly string[], string])[] = [
      [2, ['pin', '7'], 'there is no point 7'],
      [2, ['pin', '1999-01-01'], 'The oldest is point 0'],
      [2, ['note', '1'], 'give the text of the note'],
      [2, ['note', '1', 'x', '--remove'], 'not both'],
      [2, ['note', '1', 'a\nb'], 'give a note of one line'],
      [2, ['note', '1', '\u001b[31mred'], 'give a note of one line'],
      [2, ['pin', '1', '--note', 'x'.repeat(1001)], 'at most 1000 letters'],
      [2, ['pin', '1', '--vm-name', 'x'], '--vm-name goes with --monthly'],
    ];
    for (const [code, args, words] of refusals) {
      expect((await expectCli(code, [...args, '-t', target])).stderr).toContain(words);
    }
    await expectCli(10, ['pin', '0', '-t', join(target, 'nothing')]);
    expect(await photograph(target)).toEqual(before);
    const named = (await expectCli(0, ['--json', 'pin', '2099-01-01', '-t', target])).json<Marked>();
    expect(named.point.id).toBe('000000000002');
  });

  it('wait for whoever holds the target', async () => {
    const target = await chain();
    await lockFromElsewhere(target);
    expect((await expectCli(11, ['pin', '0', '-t', target])).stderr).toContain('--break-lock');
    await expectCli(0, ['pin', '0', '-t', target, '--break-lock']);
    expect((await catalogOf(target)).points[0]).toMatchObject({ pinned: true });
  });

  it('take the months of a VM for one line of points, and a folder of several VMs for none', async () => {
    const root = await labDir();
    const made = await chain();
    for (const [vm, month] of [
      ['one', '2026-10'],
      ['one', '2026-11'],
      ['two', '2026-11'],
    ] as const) {
      const target = join(root, vm, month);
      await mkdir(join(root, vm), { recursive: true });
      await cp(made, target, { recursive: true });
      const catalog = await catalogOf(target);
      const points = catalog.points.map((each) => ({
        ...each,
        id: `${vm}${month}${each.id}`,
        chain: `${vm}-${month}`,
      }));
      await writeFile(join(target, 'catalog.json'), JSON.stringify({ ...catalog, points }));
    }
    const pin = async (...args: readonly string[]): Promise<string> => {
      const { target, point } = (await expectCli(0, ['--json', 'pin', ...args])).json<Marked>();
      return `${target.slice(root.length + 1)} ${point.id}`;
    };
    const monthly = ['-t', root, '--monthly', '--vm-name', 'one'];
    expect(await pin('0', ...monthly)).toBe('one/2026-11 one2026-11000000000000');
    expect(await pin('one-2026-10:1', ...monthly)).toBe('one/2026-10 one2026-10000000000001');
    expect(await pin('latest~4', ...monthly)).toBe('one/2026-10 one2026-10000000000001');
    expect(await pin('latest', '-t', join(root, 'two'))).toBe('two/2026-11 two2026-11000000000002');
    expect((await expectCli(2, ['pin', '0', '-t', root, '--monthly'])).stderr).toContain('backups of 2 VMs');
  });
});

describe('rebase', () => {
  it('does not merge a pinned point away, and goes on up to it', async () => {
    const target = await chain();
    await expectCli(0, ['pin', '1', '-t', target, '--note', 'audit']);
    const before = await photograph(target);
    const rebase = (code: number, ...more: readonly string[]) =>
      expectCli(code, ['rebase', '-t', target, '--disk', 'd1', ...more]);
    expect((await rebase(13)).stderr).toContain('INC-2.qcow2 is of a pinned point (audit)');
    expect(await photograph(target)).toEqual(before);
    await rebase(0, '--until', 'INC-2.qcow2');
    expect((await catalogOf(target)).points.map(({ pinned }) => pinned)).toEqual([true, undefined]);
    expect((await rebase(13)).stderr).toContain('FULL-1.qcow2 is of a pinned point (audit)');
    await expectCli(0, ['unpin', 'latest~1', '-t', target]);
    await rebase(0);
  });
});

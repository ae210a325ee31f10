import { mkdir, mkdtemp, readdir, readFile, rm, statfs, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import type { Catalog } from '../../src/core/catalog.js';
import { withoutPoints } from '../../src/core/retire-points.js';
import type { Point, PointDisk } from '../../src/core/point.js';
import { prune } from '../../src/operations/prune/prune.js';
import type { PruneRequest } from '../../src/operations/prune/options.js';
import type { PruneResult } from '../../src/operations/prune/request.js';
import { verify } from '../../src/operations/verify/verify.js';
import { requireCatalog, writeCatalog } from '../../src/repository/catalog-file.js';
import { lockTarget } from '../../src/repository/lock.js';
import { leaveMark } from '../../src/repository/open-mark.js';
import { catalog, entry, MiB, point } from '../support/builders.js';
import {
  copyLab,
  expectSame,
  type Lab,
  labIn,
  makeDisk,
  makeLab,
  photograph,
  pointsOf,
  record,
  refusal,
  rot,
} from '../support/chains.js';
import { mountSmall } from '../support/mounts.js';
import { labDir } from '../support/scenario.js';

/** `prune` on real chains, beside which lies a copy of the disk at each point. */

const at = (hour: number): string => new Date(Date.parse('2026-01-01T00:30:00Z') + hour * 3_600_000).toISOString();

/** Two chains of two disks, a DIFF, a branch, and a copy outside of them; points an hour apart. */
async function makeChains(): Promise<Lab> {
  const lab = labIn(await mkdtemp(join(tmpdir(), 'qmpchain-')));
  const io = (n: number): readonly string[] => [`write -P ${n} ${n}M 1M`, ...(n % 3 === 0 ? ['discard 1M 64k'] : [])];
  const steps = (n: number) => [
    { file: `FULL-${n}.qcow2`, io: io(1) },
    { file: `INC-${n + 1}.qcow2`, on: `FULL-${n}.qcow2`, io: io(2) },
    { file: `INC-${n + 2}.qcow2`, on: `INC-${n + 1}.qcow2`, io: io(3), size: 24 },
    { file: `INC-${n + 3}.qcow2`, on: `INC-${n + 1}.qcow2`, io: io(4), size: 24 },
    { file: `INC-${n + 4}.qcow2`, on: `INC-${n + 3}.qcow2`, io: io(5), size: 24 },
  ];
  const all = async (disk: string): Promise<readonly PointDisk[]> => [
    ...(await makeDisk(lab, disk, steps(10))),
    ...(await makeDisk(lab, disk, steps(20))),
    ...(await makeDisk(lab, disk, [{ file: 'COPY-30.qcow2', io: io(6) }])),
  ];
  const points = pointsOf(await all('d1'), await all('d2')).map((each, index): Point => {
    const chain = index < 5 ? 'a' : index < 10 ? 'b' : null;
    return { ...each, id: `point-${index}`.padEnd(12, 'x'), chain, number: index % 5, createdAt: at(index) };
  });
  await record(lab, points);
  return lab;
}

let made: Promise<Lab> | undefined;
afterAll(async () => (await made)?.remove());

/** A copy, for making them takes long. */
async function chains(): Promise<Lab> {
  return copyLab(await (made ??= makeChains()));
}

const run = (target: string, request: Omit<PruneRequest, 'target'>, now = at(100)): Promise<PruneResult> =>
  prune({ target, ...request }, { now: () => new Date(now) });

const indexes = ({ histories }: PruneResult, kept: boolean): readonly number[] =>
  histories.flatMap(({ points }) =>
    points.flatMap(({ reasons }, index) => (reasons.length > 0 === kept ? [index] : [])),
  );

async function filesOf(lab: Lab): Promise<readonly string[]> {
  const all = await readdir(lab.target, { recursive: true });
  return all.filter((file) => /qcow2/.test(file)).toSorted();
}

/** What is in the catalog is there and has its bytes, and nothing else is there. */
async function expectWhole(lab: Lab): Promise<Catalog> {
  const found = await requireCatalog(lab.target);
  expect(found.retiredFiles).toBeUndefined();
  const entries = found.points.flatMap(({ disks }) => disks);
  const images = (await filesOf(lab)).filter((file) => file.endsWith('.qcow2'));
  expect(images).toEqual(entries.map(({ disk, file }) => `${disk}/${file}`).toSorted());
  for (const { disk, file } of entries) await expectSame(join(lab.folder(disk), file), lab.flat(disk, file));
  const verified = await verify({ target: lab.target, readData: true });
  expect(verified.targets[0]?.findings).toEqual([]);
  return found;
}

describe('prune', () => {
  it('drops what no rule keeps, with its files and lists of pieces, and changes no byte of the others', async () => {
    const lab = await chains();
    const before = await photograph(lab.target);
    const result = await run(lab.target, { keepLast: 1, keepDaily: 1 });
    // The copy is the newest; the newest of the chain is what the next increment builds on.
    expect(indexes(result, true)).toEqual([5, 6, 8, 9, 10]);
    const left = await expectWhole(lab);
    expect(left.points.map(({ id }) => id.slice(0, 7))).toEqual([
      'point-5',
      'point-6',
      'point-8',
      'point-9',
      'point-1',
    ]);
    const after = await photograph(lab.target);
    for (const [file, state] of Object.entries(after)) if (/qcow2/.test(file)) expect(before[file]).toBe(state);
    expect(
      Object.keys(after)
        .filter((file) => !/qcow2/.test(file))
        .toSorted(),
    ).toEqual(['catalog-copy-1.json', 'catalog-copy-2.json', 'catalog.json', 'verified.json']);
    expect(result.histories[0]?.removed).toHaveLength(12);
  });

  it('says the same without doing it, and a second run has nothing to do', async () => {
    const lab = await chains();
    const before = await photograph(lab.target);
    const rules = { keepHourly: 2, keepDaily: 1 };
    const dry = await run(lab.target, { ...rules, dryRun: true });
    expect(await photograph(lab.target)).toEqual(before);
    const real = await run(lab.target, rules);
    const told = ({ histories }: PruneResult) => histories.map(({ points, freed }) => [points, freed]);
    expect(told(real)).toEqual(told(dry));
    const once = await photograph(lab.target);
    const again = await run(lab.target, rules);
    expect(indexes(again, false)).toEqual([]);
    expect(await photograph(lab.target)).toEqual(once);
  });

  it('keeps every point bit for bit, whatever rules come one after the other', async () => {
    const start = await chains();
    const rules = fc.record({
      keepLast: fc.option(fc.integer({ min: 1, max: 6 })),
      keepHourly: fc.option(fc.integer({ min: 1, max: 6 })),
      keepWithin: fc.integer({ min: 1, max: 10 }).map((hours) => `${hours}h`),
      keepFree: fc.option(fc.constantFrom('1', '1000T'), { freq: 2 }),
    });
    await fc.assert(
      fc.asyncProperty(
        fc.array(rules, { minLength: 1, maxLength: 3 }),
        fc.subarray([0, 2, 4, 7]),
        async (all, pins) => {
          const lab = await copyLab(start);
          const marked = await requireCatalog(lab.target);
          const points = marked.points.map((each, index) =>
            pins.includes(index) ? { ...each, pinned: true as const } : each,
          );
          await writeCatalog(lab.target, { ...marked, points });
          for (const request of all) {
            const before = await requireCatalog(lab.target);
            const result = await run(lab.target, request);
            const left = await expectWhole(lab);
            const kept = indexes(result, true).map((index) => before.points[index]?.id);
            expect(left.points.map(({ id }) => id)).toEqual(kept);
            for (const pin of pins) expect(kept).toContain(marked.points[pin]?.id);
          }
          await lab.remove();
        },
      ),
      { numRuns: 2 },
    );
  });

  it('drops a damaged point only where it is told to, and forgets what verify had found of it', async () => {
    const lab = await chains();
    await rot(join(lab.folder('d1'), 'INC-22.qcow2'));
    await verify({ target: lab.target, readData: true });
    const rules = { keepWithin: '30d' };
    const kept = await run(lab.target, rules);
    expect(indexes(kept, false)).toEqual([]);
    expect(kept.histories[0]?.points[7]?.reasons.map(({ code }) => code)).toEqual(['damaged']);
    expect(indexes(await run(lab.target, { ...rules, dropDamaged: true }), false)).toEqual([7]);
    expect(await readFile(join(lab.target, 'verified.json'), 'utf8')).not.toContain('INC-22.qcow2');
    await expectWhole(lab);
  });

  it('hands on what a later point knew only from a dropped one', async () => {
    const lab = await makeLab();
    const entries = await makeDisk(
      lab,
      'd1',
      [1, 2, 3].map((n) => ({ file: `FULL-${n}.qcow2`, io: [`write -P ${n} 0 1M`] })),
    );
    const other = await makeDisk(lab, 'gone', [{ file: 'FULL-1.qcow2', io: [] }]);
    const made = entries.map((each, index) =>
      point(index, [each, ...other.slice(index)], { createdAt: at(index), removed: index === 1 ? ['gone'] : [] }),
    );
    await record(lab, made);
    await run(lab.target, { keepLast: 1, allowRemoveAll: true });
    const left = await requireCatalog(lab.target);
    expect(left.points.map(({ id, removed }) => [id, removed])).toEqual([['000000000002', ['gone']]]);
    // The folder of a disk of which nothing is left goes, too.
    expect(await readdir(lab.target)).not.toContain('gone');
    expect(left.retired).toEqual(expect.arrayContaining(['qmpbackup-00112233445566aa-gone-FULL-1.qcow2']));
  });

  it('refuses with nothing changed: no rule, a lock, an open file, a rebase that is half done', async () => {
    const lab = await chains();
    const before = await photograph(lab.target);
    expect((await refusal(run(lab.target, {}))).code).toBe('usage');
    expect((await refusal(run(lab.target, { keepFree: '1G' }))).code).toBe('usage');
    expect((await refusal(run(lab.target, { keepLast: 0 }))).code).toBe('usage');
    const takeBack = await leaveMark(lab.target, 'serve', ['d1/INC-12.qcow2']);
    for (const dryRun of [true, false]) {
      const open = await refusal(run(lab.target, { keepLast: 1, dryRun }));
      expect([open.code, open.message]).toEqual(['locked', expect.stringContaining('d1/INC-12.qcow2 is open')]);
    }
    // What stays may be open.
    const kept = await run(lab.target, { keepWithin: '30d', dryRun: true });
    expect(indexes(kept, false)).toEqual([]);
    await takeBack();
    const lock = await lockTarget(lab.target, { breakLock: false, purpose: 'a test' });
    expect((await refusal(run(lab.target, { keepLast: 1 }))).code).toBe('locked');
    await lock.release();
    expect(await photograph(lab.target)).toEqual(before);
    const whole = await requireCatalog(lab.target);
    const points = whole.points.map((each, index) =>
      index === 5 ? { ...each, disks: each.disks.map((disk) => ({ ...disk, state: 'merging' as const })) } : each,
    );
    await writeCatalog(lab.target, { ...whole, points });
    expect(await refusal(run(lab.target, { keepLast: 1 }))).toMatchObject({
      code: 'unsafe',
      message: expect.stringContaining('rebase of d1') as string,
    });
  });

  it('says what --keep-free still lacks, and drops no more than it needs', async () => {
    const lab = await chains();
    const enough = await run(lab.target, { keepLast: 1, keepFree: 1 });
    expect([indexes(enough, false), enough.histories[0]?.missing]).toEqual([[], null]);
    const never = await run(lab.target, { keepLast: 1, keepFree: '4096T' });
    expect(never.histories[0]?.missing).toBeGreaterThan(2 ** 50);
    expect(indexes(never, true)).toEqual([5, 6, 8, 9, 10]);
    await expectWhole(lab);
  });

  it('sees in a dry run, too, what it would have freed of the VMs before, and tells at the end what is missing', async () => {
    const root = join(await labDir(), 'backups');
    await mountSmall(root, 16 * MiB);
    for (const vm of ['one', 'two']) {
      const target = join(root, vm);
      await mkdir(join(target, 'd1'), { recursive: true });
      const points: Point[] = [];
      for (const number of [0, 1, 2]) {
        const file = `FULL-${number}.qcow2`;
        await writeFile(join(target, 'd1', file), Buffer.alloc(MiB));
        const of = entry('d1', file, { size: MiB, allocated: MiB });
        points.push(
          point(0, [of], { createdAt: at(number), id: `${vm}${number}`.padEnd(12, 'x'), chain: `c${number}` }),
        );
      }
      await writeCatalog(target, catalog(points));
    }
    const ofEach = async (free: number, dryRun: boolean): Promise<unknown> => {
      const { histories } = await run(root, { keepLast: 1, keepFree: free, dryRun });
      return histories.map(({ points, missing }) => [
        points.filter(({ reasons }) => reasons.length === 0).length,
        missing === null,
      ]);
    };
    const { bavail, bsize } = await statfs(root);
    // What the first one cannot free the second one does.
    const enough = bavail * bsize + 2.5 * MiB;
    const expected = [
      [2, true],
      [1, true],
    ];
    expect(await ofEach(enough, true)).toEqual(expected);
    expect(await ofEach(bavail * bsize + 5 * MiB, true)).toEqual([
      [2, false],
      [2, false],
    ]);
    expect(await ofEach(enough, false)).toEqual(expected);
  });

  it('is not held up by the catalog of another VM; a month of its own holds it up', async () => {
    const root = await labDir();
    for (const folder of ['alone', 'vm/2025-11', 'vm/2025-12', 'broken']) {
      const target = join(root, folder);
      await mkdir(join(target, 'd1'), { recursive: true });
      await writeFile(join(target, 'd1', 'FULL-1.qcow2'), 'x');
      await writeFile(join(target, 'd1', 'FULL-2.qcow2'), 'x');
      const points = [1, 2].map((n) =>
        point(0, [entry('d1', `FULL-${n}.qcow2`, { size: 1 })], {
          ...{ createdAt: at(n), id: `${n}`.padEnd(12, 'x'), chain: `c${n}` },
        }),
      );
      await writeCatalog(target, catalog(points));
    }
    for (const folder of ['broken', 'vm/2025-11']) await writeFile(join(root, folder, 'catalog.json'), '{');
    const { histories } = await run(root, { keepLast: 1 });
    expect(histories.map(({ targets, points, failed }) => [targets.length, points.length, failed?.code])).toEqual([
      [1, 0, 'unsafe'],
      [1, 2, undefined],
      [1, 0, 'unsafe'],
    ]);
    expect((await requireCatalog(join(root, 'alone'))).points).toHaveLength(1);
    expect((await requireCatalog(join(root, 'vm/2025-12'))).points).toHaveLength(2);
    for (const one of ['vm', 'broken'])
      expect((await refusal(run(join(root, one), { keepLast: 1 }))).message).toContain('catalog.json is damaged');
  });

  it('says that the points are gone where one of their files cannot be removed, and the next run goes on', async () => {
    const lab = await chains();
    const file = join(lab.folder('d1'), 'FULL-10.qcow2');
    await rm(file);
    await mkdir(join(file, 'in the way'), { recursive: true });
    const before = (await requireCatalog(lab.target)).points.length;
    expect(await refusal(run(lab.target, { keepLast: 1, dropDamaged: true }))).toMatchObject({
      code: 'failed',
      message: expect.stringContaining(
        'the points are dropped, and files of theirs are still there: cannot remove',
      ) as string,
      hint: expect.stringContaining('The next prune or backup removes what is left.') as string,
    });
    expect((await requireCatalog(lab.target)).points.length).toBeLessThan(before);
    await rm(file, { recursive: true });
    await run(lab.target, { keepLast: 1, dropDamaged: true });
    await expectWhole(lab);
  });

  it('looks at the months of a VM together, at each VM apart, and takes empty months away', async () => {
    const root = await labDir();
    const months = ['2025-11', '2025-12', '2026-01'];
    for (const vm of ['one', 'two']) {
      for (const [index, month] of months.entries()) {
        const target = join(root, vm, month);
        await mkdir(join(target, 'd1'), { recursive: true });
        await writeFile(join(target, 'd1', 'FULL-1.qcow2'), 'x'.repeat(1024));
        const of = entry('d1', 'FULL-1.qcow2', {
          size: 1024,
          bitmap: { name: `qmpbackup-${vm}-${month}`, persistent: true },
        });
        const createdAt = `${month}-01T10:00:00.000Z`;
        const id = `${vm}${index}`.padEnd(12, 'x');
        await writeCatalog(
          target,
          catalog([point(0, [of], { createdAt, id, chain: id })], { vm: { uuid: null, name: vm, label: null } }),
        );
      }
    }
    await lockTarget(join(root, 'two', '2026-01'), { breakLock: false, purpose: 'a test' });
    const result = await run(root, { monthly: true, keepMonthly: 1, keepYearly: 2 });
    const [one, two] = result.histories;
    expect(one?.points.map(({ reasons }) => reasons.map(({ code }) => code).toSorted())).toEqual([
      [],
      ['yearly'],
      ['monthly', 'tracked', 'yearly'],
    ]);
    expect(two?.failed?.code).toBe('locked');
    expect(await readdir(join(root, 'one'))).toEqual(['2025-12', '2026-01']);
    expect((await readdir(join(root, 'two'))).toSorted()).toEqual(months);
    // Its bitmap may be in the VM: the next backup has to know that it is ours.
    expect((await requireCatalog(join(root, 'one', '2026-01'))).retired).toEqual(['qmpbackup-one-2025-11']);
  });

  it('leaves files of others where a month goes', async () => {
    const root = await labDir();
    for (const month of ['2025-11', '2025-12']) {
      const target = join(root, month);
      await mkdir(join(target, 'd1'), { recursive: true });
      await writeFile(join(target, 'd1', 'FULL-1.qcow2'), 'x');
      await writeFile(join(target, 'd1', 'notes.txt'), 'x');
      const of = entry('d1', 'FULL-1.qcow2', { size: 1 });
      await writeCatalog(target, catalog([point(0, [of], { createdAt: `${month}-01T10:00:00.000Z`, id: month })]));
    }
    await run(root, { keepLast: 1 });
    expect((await readdir(join(root, '2025-11'), { recursive: true })).toSorted()).toEqual(['d1', 'd1/notes.txt']);
  });

  it('goes on with what a run that was killed has left, and so do verify --repair and the next prune', async () => {
    const start = await chains();
    const whole = await requireCatalog(start.target);
    const dropped = new Set(whole.points.slice(0, 5).map(({ id }) => id));
    await writeCatalog(start.target, withoutPoints(whole, dropped));
    await rm(join(start.folder('d1'), 'INC-11.qcow2'));
    const found = await verify({ target: start.target });
    expect(new Set(found.targets[0]?.findings.map(({ code, level }) => `${level} ${code}`))).toEqual(
      new Set(['info left-over']),
    );
    const repaired = await copyLab(start);
    const done = await verify({ target: repaired.target, repair: true });
    expect(done.targets[0]?.repaired).toHaveLength(9);
    await expectWhole(repaired);
    const result = await run(start.target, { keepLast: 9 });
    expect([indexes(result, false), result.histories[0]?.removed.length]).toEqual([[], 9]);
    await expectWhole(start);
  });
});

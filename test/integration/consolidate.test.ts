import { existsSync, statfsSync, writeFileSync } from 'node:fs';
import { cp, mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { fillFull } from '../../src/consolidation/fill-full.js';
import { fillIncrement } from '../../src/consolidation/fill-increment.js';
import type { Catalog } from '../../src/core/catalog.js';
import type { Point, PointDisk } from '../../src/core/point.js';
import { createImage } from '../../src/host/empty-image.js';
import { consolidate, type ConsolidateResult } from '../../src/operations/consolidate/consolidate.js';
import type { ConsolidateRequest } from '../../src/operations/consolidate/options.js';
import { prune } from '../../src/operations/prune/prune.js';
import type { PruneResult } from '../../src/operations/prune/request.js';
import { verify } from '../../src/operations/verify/verify.js';
import { allocatedIn } from '../../src/qemu-tools/steps.js';
import { requireCatalog, writeCatalog } from '../../src/repository/catalog-file.js';
import { leaveMark } from '../../src/repository/open-mark.js';
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
  type Step,
  withPieceList,
} from '../support/chains.js';
import { run as runProgram } from '../support/lab/programs.js';
import { mountSmall } from '../support/mounts.js';

/** `consolidate` on real chains, beside which lies a copy of the disk at each point. */

/** Data, zeros over data of a parent, discards, a disk that grows to a size that is no multiple of a cluster. */
function steps(count: number): readonly Step[] {
  const io = (n: number): readonly string[] => [
    `write -P ${n + 1} ${n % 8}M 1M`,
    `write -z ${((n + 3) % 8) * 1024 + 64}k 192k`,
    ...(n % 3 === 0 ? [`discard ${((n + 5) % 8) * 1024 + 512}k 128k`] : []),
    ...(n % 4 === 0 ? [`write -P ${n + 100} 10M 5M`] : []),
  ];
  return Array.from({ length: count }, (_, n) => ({
    file: n === 0 ? 'FULL-10.qcow2' : `INC-${10 + n}.qcow2`,
    ...(n === 0 ? {} : { on: n === 1 ? 'FULL-10.qcow2' : `INC-${9 + n}.qcow2` }),
    size: n < 4 ? 16 : 16.046875,
    io: io(n),
  }));
}

/** Eight points of two disks; the second disk came at point 2, and was left out of point 4. */
async function makeChain(): Promise<Lab> {
  const lab = labIn(await mkdtemp(join(tmpdir(), 'qmpchain-')));
  const d1: PointDisk[] = [];
  for (const each of await makeDisk(lab, 'd1', steps(8))) d1.push(await withPieceList(lab, each));
  // Its FULL has the digest of earlier versions.
  const [full, ...increments] = await makeDisk(lab, 'd2', steps(5));
  const d2 = full ? [full] : [];
  for (const each of increments) d2.push(await withPieceList(lab, each));
  const at = [2, 3, 5, 6, 7];
  const points = pointsOf(d1).map((each, index): Point => {
    const second = d2[at.indexOf(index)];
    return { ...each, id: `point-${index}`.padEnd(12, 'x'), disks: [...each.disks, ...(second ? [second] : [])] };
  });
  await record(lab, points);
  return lab;
}

let made: Promise<Lab> | undefined;
afterAll(async () => (await made)?.remove());

async function chain(): Promise<Lab> {
  return copyLab(await (made ??= makeChain()));
}

const run = (lab: Lab, request: Omit<ConsolidateRequest, 'target'>): Promise<ConsolidateResult> =>
  consolidate({ target: lab.target, ...request });

/** Of each file of a point the copy of its disk, by the id of the point. */
async function copies(lab: Lab): Promise<ReadonlyMap<string, string>> {
  const { points } = await requireCatalog(lab.target);
  return new Map(
    points.flatMap(({ id, disks }) => disks.map(({ disk, file }) => [`${id} ${disk}`, lab.flat(disk, file)] as const)),
  );
}

async function filesOf(lab: Lab): Promise<readonly string[]> {
  const all = await readdir(lab.target, { recursive: true });
  return all.filter((file) => /qcow2/.test(file)).toSorted();
}

/** What is in the catalog is there and has its bytes, also for a program that follows the headers, and nothing else is there. */
async function expectWhole(lab: Lab, flat: ReadonlyMap<string, string>): Promise<Catalog> {
  const found = await requireCatalog(lab.target);
  expect(found.retiredFiles).toBeUndefined();
  const entries = found.points.flatMap(({ disks }) => disks);
  const images = (await filesOf(lab)).filter((file) => !file.endsWith('.pieces'));
  expect(images).toEqual(entries.map(({ disk, file }) => `${disk}/${file}`).toSorted());
  for (const { id, disks } of found.points) {
    for (const { disk, file } of disks) await expectSame(join(lab.folder(disk), file), flat.get(`${id} ${disk}`)!);
  }
  const verified = await verify({ target: lab.target, readData: true });
  expect(verified.targets[0]?.findings).toEqual([]);
  return found;
}

const ids = ({ points }: Catalog): readonly string[] => points.map(({ id }) => id.replace(/x+$/, ''));

describe('consolidate', () => {
  it('makes a FULL of the oldest points, on which the later ones build, whatever programs open them', async () => {
    const lab = await chain();
    const flat = await copies(lab);
    const before = await requireCatalog(lab.target);
    const [result] = (await run(lab, { keep: 3 })).chains;
    const left = await expectWhole(lab, flat);
    expect(ids(left)).toEqual(['point-5', 'point-6', 'point-7']);
    expect(result?.merged.map(({ name }) => name)).toEqual(['point 0', 'point 1', 'point 2', 'point 3', 'point 4']);
    expect(left.points[0]).toMatchObject({
      level: 'full',
      number: 5,
      disks: [{ level: 'full', parent: null }, { level: 'full' }],
    });
    // Bitmaps go on: the next increment fits.
    for (const [index, point] of left.points.entries()) {
      expect(point.disks.map(({ bitmap }) => bitmap)).toEqual(
        before.points[5 + index]?.disks.map(({ bitmap }) => bitmap),
      );
    }
    expect(left.points.flatMap(({ disks }) => disks.flatMap(({ link }) => link ?? []))).toEqual([]);
    // Again, and to the end.
    await run(lab, { until: 'latest' });
    const [only, ...others] = (await expectWhole(lab, flat)).points;
    expect([only?.id.slice(0, 7), others]).toEqual(['point-7', []]);
    const nothing = await run(lab, { keep: 1 });
    expect(nothing.chains[0]).toMatchObject({ head: null, merged: [], files: [], removed: [] });
  });

  it('says the same without doing it, and refuses with nothing changed', async () => {
    const lab = await chain();
    const before = await photograph(lab.target);
    const told = ({ chains }: ConsolidateResult) =>
      chains.map(({ merged, files }) => [merged, files.map(({ from }) => from)]);
    const dry = told(await run(lab, { keep: 2, dryRun: true }));
    expect(await photograph(lab.target)).toEqual(before);
    const codes = async (request: Omit<ConsolidateRequest, 'target'>): Promise<string> =>
      (await refusal(run(lab, request))).code;
    expect(await codes({})).toBe('usage');
    expect(await codes({ keep: 1, until: '3' })).toBe('usage');
    expect(await codes({ keep: 0 })).toBe('usage');
    expect(await codes({ until: '17' })).toBe('usage');
    const takeBack = await leaveMark(lab.target, 'serve', ['d1/INC-16.qcow2']);
    expect(await codes({ keep: 2, dryRun: true })).toBe('locked');
    expect(await codes({ keep: 2 })).toBe('locked');
    // What stays as it is may be open.
    await run(lab, { until: '5', dryRun: true });
    await takeBack();
    expect(await photograph(lab.target)).toEqual(before);

    const whole = await requireCatalog(lab.target);
    const pinned = whole.points.map((each, at) => (at === 2 ? { ...each, pinned: true as const, note: 'why' } : each));
    await writeCatalog(lab.target, { ...whole, points: pinned });
    expect((await refusal(run(lab, { keep: 2 }))).message).toMatch(/point 2 is pinned \(why\)/);
    await run(lab, { until: '2', dryRun: true });
    await writeCatalog(lab.target, whole);
    expect(told(await run(lab, { keep: 2 }))).toEqual(dry);
  });

  it('refuses what has rotted, also in the file whose header is changed, and leaves nothing behind', async () => {
    // In the FULL also in the table that says where cluster 160 is: QEMU reads something else then, or nothing.
    const entry = 0x40000 + 160 * 8;
    const places = [['FULL-10.qcow2'], ['FULL-10.qcow2', entry + 3], ['INC-14.qcow2'], ['INC-15.qcow2']] as const;
    for (const [file, at] of places) {
      const lab = await chain();
      await rot(join(lab.folder('d1'), file), at);
      const before = await requireCatalog(lab.target);
      const images = await filesOf(lab);
      const error = await refusal(run(lab, { until: '4' }));
      // A file whose time is another, too, was altered.
      expect(['damaged', 'unsafe']).toContain(error.code);
      expect(error.message).toContain(file);
      const after = await requireCatalog(lab.target);
      expect([ids(after), after.retiredFiles]).toEqual([ids(before), undefined]);
      expect(await filesOf(lab)).toEqual(images);
    }
  });

  it('keeps the last state of a disk that went, unless it may go', async () => {
    const lab = await chain();
    const whole = await requireCatalog(lab.target);
    const points = whole.points.slice(0, 5).map((each, at) => (at === 4 ? { ...each, removed: ['d2'] } : each));
    await writeCatalog(lab.target, { ...whole, points });
    const error = await refusal(run(lab, { keep: 1 }));
    expect([error.code, error.message]).toEqual(['unsafe', expect.stringContaining('the disk d2')]);
    await run(lab, { keep: 1, allowRemoveAll: true });
    expect((await requireCatalog(lab.target)).points.map(({ disks }) => disks.map(({ disk }) => disk))).toEqual([
      ['d1'],
    ]);
  });

  it('keeps every point bit for bit, whatever prunes and consolidations come one after the other', async () => {
    const action = fc.oneof(
      fc.record({ verb: fc.constant('consolidate' as const), keep: fc.integer({ min: 1, max: 6 }) }),
      fc.record({ verb: fc.constant('prune' as const), keep: fc.integer({ min: 1, max: 3 }) }),
    );
    await fc.assert(
      fc.asyncProperty(
        fc.array(action, { minLength: 1, maxLength: 2 }),
        fc.subarray([1, 2, 4, 5]),
        async (all, pins) => {
          const lab = await chain();
          const flat = await copies(lab);
          const marked = await requireCatalog(lab.target);
          const points = marked.points.map((each, at) =>
            pins.includes(at) ? { ...each, pinned: true as const } : each,
          );
          await writeCatalog(lab.target, { ...marked, points });
          for (const { verb, keep } of all) {
            if (verb === 'prune') await prune({ target: lab.target, keepLast: keep, consolidate: true });
            else await run(lab, { keep }).catch(expectPinned);
            const left = ids(await expectWhole(lab, flat));
            expect(left).toEqual(expect.arrayContaining([...pins.map((at) => `point-${at}`), 'point-7']));
            if (verb === 'prune') expect(left.length).toBeLessThanOrEqual(pins.length + keep);
          }
          await lab.remove();
        },
      ),
      { numRuns: 2, endOnFailure: true },
    );
  });

  it('of prune drops points in the middle, and a FULL below a point that stays', async () => {
    const lab = await chain();
    const flat = await copies(lab);
    const pin = async (at: number, pinned: true | undefined): Promise<void> => {
      const { points, ...rest } = await requireCatalog(lab.target);
      await writeCatalog(lab.target, {
        ...rest,
        points: points.map((each, n) => (n === at ? { ...each, pinned } : each)),
      });
    };
    await pin(0, true);
    await pin(4, true);
    const dry = await prune({ target: lab.target, keepLast: 2, consolidate: true, dryRun: true });
    const real = await prune({ target: lab.target, keepLast: 2, consolidate: true });
    const told = ({ histories }: PruneResult) => histories.map(({ points }) => points);
    expect(told(real)).toEqual(told(dry));
    const middle = await expectWhole(lab, flat);
    expect(ids(middle)).toEqual(['point-0', 'point-4', 'point-6', 'point-7']);
    expect(middle.points.map(({ disks }) => disks.map(({ level }) => level))).toEqual([
      ['full'],
      ['inc'],
      ['inc', 'full'],
      ['inc', 'inc'],
    ]);
    expect(told(real)[0]?.[1]?.mergedInto.map((id) => id.slice(0, 7))).toEqual(['point-4']);
    // The FULL is as it was.
    expect(middle.points[0]?.disks[0]?.file).toBe('FULL-10.qcow2');
    await pin(0, undefined);
    await prune({ target: lab.target, keepLast: 2, consolidate: true });
    expect(ids(await expectWhole(lab, flat))).toEqual(['point-4', 'point-6', 'point-7']);
    const once = await photograph(lab.target);
    await prune({ target: lab.target, keepLast: 2, consolidate: true });
    expect(await photograph(lab.target)).toEqual(once);
    expect((await refusal(prune({ target: lab.target, keepLast: 1, keepFree: 1, consolidate: true }))).code).toBe(
      'usage',
    );
  });
});

describe('the bytes of a line', () => {
  /** FULL, and increments that hide it in turn; the last of them grew. */
  async function line(count: number): Promise<{ readonly lab: Lab; readonly files: readonly PointDisk[] }> {
    const lab = await makeLab();
    const files = await makeDisk(lab, 'd1', steps(count));
    return { lab, files };
  }
  const options = { signal: new AbortController().signal, onProgress: () => undefined };

  it.each([
    { atOnce: 1, count: 6, compress: false },
    { atOnce: 2, count: 6, compress: false },
    { atOnce: 100, count: 4, compress: true },
  ])('are the same, $atOnce files at once, compressed: $compress', async ({ atOnce, count, compress }) => {
    const { lab, files } = await line(count);
    const dir = lab.folder('d1');
    const size = files.at(-1)!.virtualSize;
    await createImage(join(dir, 'whole.qcow2'), { size });
    await (
      await fillFull({ dir, partial: 'whole.qcow2', files, compress }, { ...options, atOnce })
    )();
    await expectSame(join(dir, 'whole.qcow2'), lab.flat('d1', files.at(-1)!.file));
    const [, second, ...increments] = files;
    await createImage(join(dir, 'part.qcow2'), { size, backing: second!.file });
    await (
      await fillIncrement({ dir, partial: 'part.qcow2', files: increments, compress }, { ...options, atOnce })
    )();
    await expectSame(join(dir, 'part.qcow2'), lab.flat('d1', files.at(-1)!.file));
    // No more than the increments: the rest is still below.
    expect(await allocatedIn(join(dir, 'part.qcow2'))).toBeLessThan(await allocatedIn(join(dir, 'whole.qcow2')));
  });
});

describe('files as they are found', () => {
  /** Of one disk, the first point pinned; `afterwards` is done to each file. */
  async function found(
    disks: readonly Pick<Step, 'size' | 'io'>[],
    afterwards: (path: string) => Promise<unknown> = () => Promise.resolve(),
  ): Promise<Lab> {
    const lab = await makeLab();
    const names = disks.map((_, n) => (n === 0 ? 'FULL-10.qcow2' : `INC-${10 + n}.qcow2`));
    const made = disks.map((each, n): Step => ({
      ...each,
      file: names[n]!,
      ...(n === 0 ? {} : { on: names[n - 1]! }),
    }));
    const entries: PointDisk[] = [];
    for (const each of await makeDisk(lab, 'd1', made)) {
      await afterwards(join(lab.folder('d1'), each.file));
      entries.push(await withPieceList(lab, each));
    }
    await record(
      lab,
      pointsOf(entries).map((each) => (each.number === 0 ? { ...each, pinned: true as const } : each)),
    );
    return lab;
  }

  /** What was the state of each point still is; their numbers. */
  async function expectStates(lab: Lab): Promise<readonly number[]> {
    const { points } = await requireCatalog(lab.target);
    for (const { number, disks } of points) {
      const before = number === 0 ? 'FULL-10.qcow2' : `INC-${10 + number}.qcow2`;
      await expectSame(join(lab.folder('d1'), disks[0]!.file), lab.flat('d1', before));
    }
    const [checked] = (await verify({ target: lab.target, readData: true })).targets;
    expect(checked?.findings).toEqual([]);
    return points.map(({ number }) => number);
  }

  const newestOnly = (lab: Lab) => prune({ target: lab.target, keepLast: 1, consolidate: true });

  /** 10.5 clusters. */
  const ODD = 0.65625;

  it('are merged where a disk grew whose last cluster was a part of one, and had been written or not', async () => {
    for (const last of ['write -P 2 640k 32k', 'write -z 640k 32k', 'write -P 2 64k 64k']) {
      const lab = await found([
        { size: ODD, io: ['write -P 1 0 672k'] },
        { size: ODD, io: [last] },
        { size: 2, io: ['write -P 3 192k 64k'] },
      ]);
      await newestOnly(lab);
      expect(await expectStates(lab), last).toEqual([0, 2]);
    }
  });

  it('stay where a disk shrank and grew again, for what had been behind its end would show', async () => {
    const lab = await found([
      { size: 2, io: ['write -P 1 0 2M'] },
      { size: ODD, io: ['write -P 2 64k 64k'] },
      { size: 2, io: ['write -P 3 192k 64k'] },
    ]);
    const { histories } = await newestOnly(lab);
    expect(JSON.stringify(histories[0]?.points[1]?.reasons)).toContain(
      'it is a smaller disk than FULL-10.qcow2, on which it builds, and INC-12.qcow2 a larger one',
    );
    expect(await expectStates(lab)).toEqual([0, 1, 2]);
  });

  it('are merged where zeros in them became holes of their files, as `cp --sparse=always` makes them', async () => {
    const lab = await found(
      [
        { size: 16, io: ['write -P 1 0 16M'] },
        { size: 16, io: ['write -P 0 64k 4M', 'write -P 5 1028k 4k', 'write -P 6 2048k 64k'] },
        { size: 16, io: ['write -P 0 1M 1M', 'write -P 3 192k 4k'] },
        { size: 16, io: ['write -P 0 8M 1M', 'write -P 7 8200k 8k'] },
      ],
      (path) => runProgram('fallocate', ['--dig-holes', path]),
    );
    await newestOnly(lab);
    expect(await expectStates(lab)).toEqual([0, 3]);
    const now = await requireCatalog(lab.target);
    await writeCatalog(lab.target, { ...now, points: now.points.map((each) => ({ ...each, pinned: undefined })) });
    await consolidate({ target: lab.target, keep: 1 });
    expect(await expectStates(lab)).toEqual([3]);
  });
});

describe('a target that is full', () => {
  it('before it begins, or in the middle: nothing is lost or left, and with space it is done', async () => {
    const start = await chain();
    const flat = await copies(start);
    const folder = join(start.root, 'small');
    const small = await mountSmall(folder, 96 * 1024 * 1024);
    const lab: Lab = { ...start, target: join(folder, 'target'), folder: (disk) => join(folder, 'target', disk) };
    await cp(start.target, lab.target, { recursive: true, preserveTimestamps: true });
    await small.fillBut(1024 * 1024);
    const error = await refusal(run(lab, { keep: 2 }));
    expect([error.code, error.message]).toEqual(['unsafe', expect.stringContaining('too little space')]);
    await small.empty();
    const whole = await filesOf(lab);
    const filler = join(folder, 'others');
    const full = consolidate(
      { target: lab.target, keep: 2 },
      {
        report: ({ kind }) => {
          if (kind !== 'merging' || existsSync(filler)) return;
          const { bavail, bsize } = statfsSync(folder);
          writeFileSync(filler, Buffer.alloc(bavail * bsize - 256 * 1024, 1));
        },
      },
    );
    expect((await refusal(full)).message).toMatch(/No space left|space/);
    expect(await filesOf(lab)).toEqual(whole);
    expect(await expectWhole(lab, flat)).toMatchObject({ points: { length: 8 } });
    await rm(filler);
    await run(lab, { keep: 2 });
    expect(ids(await expectWhole(lab, flat))).toEqual(['point-6', 'point-7']);
  });
});

function expectPinned(error: unknown): void {
  expect((error as Error).message).toContain('is pinned');
}

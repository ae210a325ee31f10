import { describe, expect, it } from 'vitest';
import { pointInTime } from '../../../src/core/asked-time.js';
import type { Catalog } from '../../../src/core/catalog.js';
import { refuseFindings } from '../../../src/core/point-findings.js';
import { planRestore, type PointRequest } from '../../../src/core/restore-plan.js';
import { QmpBackupError } from '../../../src/errors.js';
import { type LegacyDisk, planLegacyRestore } from '../../../src/import/legacy-restore.js';
import { catalog, entry, point } from '../../support/builders.js';

function refusal(run: () => unknown): QmpBackupError {
  try {
    run();
  } catch (error) {
    if (error instanceof QmpBackupError) return error;
    throw error;
  }
  throw new Error('it was not refused');
}

function asked(words: string | Date): NonNullable<PointRequest['at']> {
  const time = pointInTime('--at').read(words);
  if (!time) throw new Error('it is a time');
  return time;
}

const a0 = entry('a', 'FULL-10.qcow2');
const b0 = entry('b', 'FULL-10.qcow2');
const a1 = entry('a', 'INC-11.qcow2', { parent: 'FULL-10.qcow2' });
const b1 = entry('b', 'INC-12.qcow2', { parent: 'FULL-10.qcow2' });

function two(): Catalog {
  return catalog([
    point(0, [a0, b0]),
    point(1, [a1]),
    point(2, [b1]),
    point(0, [entry('a', 'COPY-13.qcow2', { level: 'copy' })], { id: 'feedfacecafe', chain: null, level: 'copy' }),
  ]);
}

function plan(of: Catalog, request: PointRequest = {}): string {
  const found = planRestore(of, request);
  refuseFindings(found.findings);
  const disks = found.disks.map(({ entry: { disk }, chain }) => `${disk}:${chain.map(({ file }) => file).join('+')}`);
  return `${found.point.id} ${disks.join(' ')}${found.absent.length > 0 ? ` without ${found.absent.join(' ')}` : ''}`;
}

describe('planRestore', () => {
  it('takes the newest point, and says which disks it does not hold', () => {
    expect(plan(catalog(two().points.slice(0, 2)))).toBe('000000000001 a:FULL-10.qcow2+INC-11.qcow2 without b');
    expect(plan(two())).toBe('feedfacecafe a:COPY-13.qcow2 without b');
  });

  it('does not miss a disk that was removed before', () => {
    const removed = catalog([point(0, [a0, b0]), point(1, [a1], { removed: ['b'] })]);
    expect(plan(removed)).toBe('000000000001 a:FULL-10.qcow2+INC-11.qcow2');
  });

  it('finds points by number, chain, id and file', () => {
    const chains = catalog([...two().points, point(0, [entry('a', 'FULL-20.qcow2')], { chain: 'c2', id: 'second' })]);
    expect(plan(chains, { point: '0' })).toMatch(/^second /);
    expect(plan(chains, { point: 'c1:1' })).toMatch(/^000000000001 a/);
    expect(plan(chains, { point: 'feedfacecafe' })).toMatch(/^feedfacecafe /);
    expect(plan(chains, { until: 'INC-11' })).toMatch(/^000000000001 /);
    expect(plan(chains, { until: 'b/INC-12.qcow2' })).toMatch(/^000000000002 /);
    expect(plan(chains, { point: 'c1:0', disks: ['b'] })).toBe('000000000000 b:FULL-10.qcow2');
  });

  it('takes the newest point that is not later than a time, and no older one in its place', () => {
    const timed = catalog([
      point(0, [a0], { createdAt: '2026-11-20T09:00:00.000Z' }),
      point(1, [a1], { createdAt: '2026-11-20T10:00:00.400Z' }),
      point(2, [entry('a', 'INC-12.qcow2', { parent: 'INC-11.qcow2' })], { createdAt: '2026-11-21T00:00:00.000Z' }),
    ]);
    const at = (words: string | Date): string => plan(timed, { at: asked(words) }).slice(0, 12);
    expect(at('2026-11-20 10:00:00Z')).toBe('000000000001');
    expect(at('2026-11-20T10:00:00.399Z')).toBe('000000000000');
    expect(at('2026-11-20 09:59Z')).toBe('000000000000');
    expect(at('2026-11-20 10:30+01:00')).toBe('000000000000');
    expect(at('2099-01-01')).toBe('000000000002');
    expect(at(new Date('2026-11-20T23:59:59.999Z'))).toBe('000000000001');
    const later = point(1, [{ ...a1, state: 'merged' }], { createdAt: '2026-11-20T10:00:00.000Z' });
    const merged = { ...timed, points: [timed.points[0]!, later] };
    expect(refusal(() => plan(merged, { at: asked('2026-11-20 11:00Z') })).message).toContain('a was merged');
    expect(refusal(() => plan(timed, { at: asked('2026-11-19') })).hint).toContain('point 0, of 2026-11-20T09:00');
  });

  it('asks back when a file name is in several points', () => {
    const same = catalog([point(0, [a0]), point(1, [b0])]);
    expect(refusal(() => plan(same, { until: 'FULL-10.qcow2' }))).toMatchObject({
      code: 'usage',
      message: 'FULL-10.qcow2 is in point 0 and in point 1',
    });
    expect(plan(same, { until: 'b/FULL-10' })).toMatch(/^000000000001/);
  });

  it.each<[PointRequest, RegExp]>([
    [{ point: '9' }, /no point 9/],
    [{ point: 'c9:0' }, /no point c9:0/],
    [{ until: 'INC-99' }, /no point holds a file INC-99/],
    [{ disks: ['c'] }, /no disk c/],
    [{ point: '0', until: 'INC-11' }, /not both/],
    [{ point: '0', at: asked('2026-11-20') }, /a time or a point, not both/],
    [{ until: 'INC-11', at: asked('2026-11-20') }, /a time or a file, not both/],
    [{ at: asked('2026-11-20') }, /no point of 2026-11-20 or before/],
  ])('refuses %j as bad usage', (request, words) => {
    const refused = refusal(() => plan(two(), request));
    expect(refused.code).toBe('usage');
    expect(refused.message).toMatch(words);
  });

  it('refuses what is merged, being merged, or has a gap, and passes over it by itself', () => {
    const merging = catalog([
      point(0, [entry('a', 'FULL-1.qcow2')], { chain: 'c0' }),
      point(0, [{ ...a0, state: 'merging' }]),
      point(1, [a1]),
    ]);
    expect(refusal(() => plan(merging, { point: '1' }))).toMatchObject({
      code: 'unsafe',
      message: 'point 1 cannot be restored: a: a merge into FULL-10.qcow2 was interrupted',
      hint: expect.stringContaining('Restorable are: point c0:0') as string,
    });
    expect(plan(merging)).toMatch(/FULL-1.qcow2/);
    const gap = catalog([point(0, [{ ...a0, state: 'merged' }]), point(1, [a1])]);
    expect(refusal(() => plan(gap, { point: '0' })).message).toContain('a was merged into a later point');
    expect(refusal(() => plan(gap, { point: '1' })).message).toContain('FULL-10.qcow2 is missing');
    expect(refusal(() => plan(gap))).toMatchObject({ code: 'unsafe' });
  });
});

describe('planForeignRestore', () => {
  function disk(name: string, chains: readonly (readonly number[])[], refused: string | null = null): LegacyDisk {
    return {
      disk: name,
      dir: `/t/${name}`,
      chains: chains.map((numbers) => ({
        disk: name,
        files: numbers.map((number, index) => {
          const file = `${index === 0 ? 'FULL' : 'INC'}-${number}-${name}`;
          return { name: file, path: `/t/${name}/${file}`, number };
        }),
        notes: [],
        refused,
      })),
    };
  }

  function files(found: readonly LegacyDisk[], request: Parameters<typeof planLegacyRestore>[1] = {}): string {
    const { disks } = planLegacyRestore(found, request);
    return disks.map(({ chain }) => chain.files.map(({ number }) => number).join('+')).join(' ');
  }

  const found = [
    disk('a', [
      [1, 2, 3],
      [10, 11, 12],
    ]),
    disk('b', [
      [1, 3],
      [10, 12],
    ]),
  ];

  it('takes the newest state of each disk, one run, or one of an older chain', () => {
    expect(files(found)).toBe('10+11+12 10+12');
    expect(files(found, { point: '1' })).toBe('10+11 10');
    expect(files(found, { point: '1:2' })).toBe('1+2+3 1+3');
    expect(files(found, { until: 'INC-2-a' })).toBe('1+2 1');
    expect(files(found, { until: 'a/INC-11-a', disks: ['a'] })).toBe('10+11');
  });

  it('leaves out a disk that has nothing so old', () => {
    expect(planLegacyRestore([...found, disk('c', [[10]])], { until: 'INC-2-a' }).warnings).toContainEqual({
      code: 'point-lacks-disk',
      text: 'c has no backup as old as 2, it is left out',
    });
  });

  it('refuses a chain whose end is not the last state, but not an earlier file of it', () => {
    const broken = [disk('a', [[1, 2, 3]], 'INC-4-a builds on FULL-3-a.partial, which did not finish')];
    expect(refusal(() => files(broken))).toMatchObject({ code: 'unsafe' });
    expect(files(broken, { until: 'INC-3-a' })).toBe('1+2+3');
  });

  it('tells a FULL and an increment of one second apart', () => {
    expect(files([disk('a', [[1, 1, 2]])], { until: 'FULL-1-a' })).toBe('1');
  });

  it.each([{ point: '7' }, { point: '5:0' }, { until: 'INC-7' }, { disks: ['z'] }, { point: '0', until: 'INC-2-a' }])(
    'refuses %j as bad usage',
    (request) => {
      expect(refusal(() => files(found, request))).toMatchObject({ code: 'usage' });
    },
  );
});

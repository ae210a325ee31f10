import { describe, expect, it } from 'vitest';
import { exportPartOf, filesToExport, missingPoints, withPoints } from '../../../src/core/export-part.js';
import { manifestText, readManifest } from '../../../src/core/export-manifest.js';
import { catalog, entry, point } from '../../support/builders.js';

/** FULL and increments of one disk, numbers 0 to `last`; ids are the numbers, with `tag` for their first digit. */
function chain(last: number, tag = '0') {
  return catalog(
    Array.from({ length: last + 1 }, (_, number) => {
      const file = number === 0 ? 'FULL-0.qcow2' : `INC-${number}.qcow2`;
      const parent = number === 0 ? null : number === 1 ? 'FULL-0.qcow2' : `INC-${number - 1}.qcow2`;
      return point(number, [entry('d1', file, { parent })], { id: `${tag}${number}`.padEnd(12, 'a') });
    }),
  );
}

const ALL = { point: null, since: null };
const numbers = (points: readonly { readonly number: number }[]): number[] => points.map((each) => each.number);

describe('which points an export holds', () => {
  it('all, those after one, or one with what it builds on', () => {
    expect(numbers(exportPartOf(chain(4), ALL).catalog.points)).toEqual([0, 1, 2, 3, 4]);
    const since = exportPartOf(chain(4), { ...ALL, since: '2' });
    expect(numbers(since.catalog.points)).toEqual([3, 4]);
    expect(since.beneath).toEqual([{ disk: 'd1', file: 'INC-2.qcow2', point: '02aaaaaaaaaa' }]);
    expect(numbers(exportPartOf(chain(4), { ...ALL, point: '2' }).catalog.points)).toEqual([0, 1, 2]);
    expect(numbers(exportPartOf(chain(4), { ...ALL, since: 'latest' }).catalog.points)).toEqual([]);
  });

  it('leaves out files that were merged into later ones', () => {
    const merged = point(0, [entry('d1', 'FULL-0.qcow2', { state: 'merged' }), entry('d2', 'FULL-0.qcow2')]);
    expect(filesToExport([merged]).map(({ folder }) => folder)).toEqual(['d2']);
  });
});

describe('which points a target takes in', () => {
  it('those after its newest, in whatever part of the origin they come', () => {
    const part = exportPartOf(chain(4), ALL);
    expect(numbers(missingPoints(part, undefined))).toEqual([0, 1, 2, 3, 4]);
    expect(numbers(missingPoints(part, chain(2)))).toEqual([3, 4]);
    expect(numbers(missingPoints(exportPartOf(chain(4), { ...ALL, since: '1' }), chain(2)))).toEqual([3, 4]);
    expect(numbers(missingPoints(part, chain(4)))).toEqual([]);
  });

  it('none where one is missing in between, where both went on, or where they have nothing in common', () => {
    const late = exportPartOf(chain(4), { ...ALL, since: '3' });
    expect(() => missingPoints(late, chain(2))).toThrow('points are missing');
    expect(() => missingPoints(late, undefined)).toThrow('points are missing');
    const own = chain(2);
    const diverged = { ...own, points: [...own.points, point(3, [entry('d1', 'INC-9.qcow2')], { id: 'other' })] };
    expect(() => missingPoints(exportPartOf(chain(4), ALL), diverged)).toThrow('gone their own ways');
    expect(() => missingPoints(exportPartOf(chain(4), ALL), chain(2, '9'))).toThrow('no point in common');
  });

  it('none that build on a file which has moved into another point since', () => {
    const [copy, { points }] = [chain(3), chain(4)];
    const rebased = points.map((each) => {
      if (each.number === 3) return { ...each, disks: [entry('d1', 'FULL-0.qcow2')] };
      if (each.number === 4) return { ...each, disks: [entry('d1', 'INC-4.qcow2', { parent: 'FULL-0.qcow2' })] };
      return { ...each, disks: each.disks.map((disk) => ({ ...disk, state: 'merged' as const })) };
    });
    expect(() => missingPoints(exportPartOf(catalog(rebased), ALL), copy)).toThrow('points are missing');
    expect(() => missingPoints(exportPartOf(catalog(rebased), { ...ALL, since: '3' }), copy)).toThrow('missing');
    expect(numbers(missingPoints(exportPartOf(catalog(rebased), ALL), undefined))).toEqual([0, 1, 2, 3, 4]);
  });

  it('a new one has an id of its own, and all names of bitmaps', () => {
    const part = exportPartOf({ ...chain(1), retired: ['qmpbackup-old'] }, ALL);
    const made = withPoints(undefined, part, { points: part.catalog.points, targetId: 'f'.repeat(16), tool: 'new' });
    expect(made).toMatchObject({ targetId: 'f'.repeat(16), retired: ['qmpbackup-old'] });
    expect(made.points).toEqual(part.catalog.points);
    const more = withPoints(chain(0), part, {
      points: part.catalog.points.slice(1),
      targetId: 'e'.repeat(16),
      tool: 'x',
    });
    expect(more.targetId).toBe(chain(0).targetId);
  });
});

describe('what an export says first', () => {
  it('is read as it was written, and refused where it is another, newer or out of order', () => {
    const part = exportPartOf(chain(2), { ...ALL, since: '0' });
    expect(readManifest(manifestText(part))).toEqual({ ...part, catalog: { ...part.catalog, schema: 1 } });
    const changed = (change: object): string =>
      JSON.stringify({ ...(JSON.parse(manifestText(part)) as object), ...change });
    expect(() => readManifest('{')).toThrow('no JSON');
    expect(() => readManifest('{}')).toThrow('does not say that it is one');
    expect(() => readManifest(changed({ schema: 2 }))).toThrow('newer');
    expect(() => readManifest(changed({ catalog: { ...part.catalog, schema: 99 } }))).toThrow('newer');
    expect(() => readManifest(changed({ order: [...part.order].reverse() }))).toThrow('not in order');
    expect(() => readManifest(changed({ beneath: [{ disk: '..', file: 'x', point: 'y' }] }))).toThrow(
      'none that export',
    );
  });
});

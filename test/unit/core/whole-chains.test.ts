import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { chainOf } from '../../../src/core/chain.js';
import type { Point, PointDisk } from '../../../src/core/point.js';
import { chainsIn, gapsIn, lostPoints } from '../../../src/core/whole-chains.js';
import { catalog, entry, point } from '../../support/builders.js';
import { countedPoints } from '../../support/counted-points.js';

const full = entry('a', 'FULL-1.qcow2');
const inc = entry('a', 'INC-2.qcow2', { parent: full.file });
const last = entry('a', 'INC-3.qcow2', { parent: inc.file });
const other = entry('b', 'FULL-3.qcow2');
const whole = catalog([point(0, [full]), point(1, [inc]), point(2, [last, other])]);

describe('points that are lost', () => {
  const lost = (...bad: string[]): readonly string[] => lostPoints(whole, whole.points, new Set(bad));

  it('are those whose chains need a bad file', () => {
    expect(lost()).toEqual([]);
    expect(lost('a/FULL-1.qcow2')).toEqual(['point 0', 'point 1', 'point 2']);
    expect(lost('a/INC-3.qcow2')).toEqual(['point 2']);
    expect(lost('b/FULL-3.qcow2')).toEqual(['point 2']);
    expect(lost('a/INC-2.qcow2', 'a/INC-3.qcow2')).toEqual(['point 1', 'point 2']);
  });

  it('are those above a gap, and of files that build on each other', () => {
    const gap = catalog([point(0, [full]), point(2, [last])]);
    expect(gapsIn(gap)).toEqual([last]);
    expect(lostPoints(gap, gap.points, new Set())).toEqual(['point 2']);
    const loop = catalog([point(0, [full]), point(1, [{ ...inc, parent: last.file }]), point(2, [last])]);
    expect(gapsIn(loop)).toHaveLength(1);
    expect(lostPoints(loop, loop.points, new Set())).toEqual(['point 1', 'point 2']);
    expect(gapsIn(whole)).toEqual([]);
  });

  it('are told of a chain of thousands', () => {
    const files = Array.from({ length: 5000 }, (_, index) =>
      entry('a', `INC-${index}.qcow2`, { parent: index === 0 ? null : `INC-${index - 1}.qcow2` }),
    );
    const long = catalog(files.map((each, index) => point(index, [each])));
    expect(lostPoints(long, long.points, new Set(['a/INC-4000.qcow2']))).toHaveLength(1000);
  });
});

describe('all chains of a catalog', () => {
  const STATES = ['whole', 'whole', 'whole', 'merging', 'merged'] as const;
  /** Files of one disk that build on any other, on themselves, or on what is not there. */
  const POINTS = fc
    .array(fc.tuple(fc.option(fc.nat(10)), fc.constantFrom(...STATES)), { minLength: 1, maxLength: 10 })
    .map((specs) =>
      specs.map(([on, state], index): Point => {
        const parent = on === null ? null : `F-${on}.qcow2`;
        return point(index, [entry('a', `F-${index}.qcow2`, { parent, state })]);
      }),
    );

  it('are those of each file by itself', () => {
    fc.assert(
      fc.property(POINTS, (points) => {
        const of = catalog(points);
        const chainTo = chainsIn(of, ({ file }) => (file.endsWith('3.qcow2') ? [] : [file]));
        for (const each of points.flatMap(({ disks }) => disks)) {
          const { files, fault } = chainOf(of, each);
          const summary = chainTo(each);
          expect({ ...summary, list: summary.list() }).toEqual({
            ...{ files: files.length, fault, list: files },
            found: files.map(({ file }) => file).filter((file) => !file.endsWith('3.qcow2')),
          });
        }
      }),
    );
  });

  it('take as many looks at each file, however long they are', () => {
    const looksOf = (count: number): number => {
      const { points, looks } = countedPoints(count);
      const chainTo = chainsIn(catalog(points), ({ file }: PointDisk) => (file.startsWith('FULL') ? [file] : []));
      const last = points.at(-1)?.disks[0];
      for (const { disks } of points) for (const each of disks) chainTo(each);
      expect(last && chainTo(last)).toMatchObject({ files: count, fault: null, found: ['FULL-0.qcow2'] });
      return looks();
    };
    expect(looksOf(2000)).toBeLessThan(looksOf(200) * 10.1);
  });
});

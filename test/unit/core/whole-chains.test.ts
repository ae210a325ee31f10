import { describe, expect, it } from 'vitest';
import { gapsIn, lostPoints } from '../../../src/core/whole-chains.js';
import { catalog, entry, point } from '../../support/builders.js';

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

import { describe, expect, it } from 'vitest';
import { isOlderThan } from '../../../src/core/catalog-copy.js';
import type { Catalog } from '../../../src/core/catalog.js';
import { readCatalogValue, schemaOf } from '../../../src/core/catalog.js';
import type { Hardware } from '../../../src/core/hardware.js';
import { withoutPoints } from '../../../src/core/retire-points.js';
import { kindOf, accountsOf } from '../../../src/core/strays.js';
import { trackedPoints } from '../../../src/core/tracked-points.js';
import { catalog, entry, point } from '../../support/builders.js';

const idOf = (index: number): string => `${index}`.padStart(12, '0');
const without = (of: Catalog, ...indexes: readonly number[]): Catalog => withoutPoints(of, new Set(indexes.map(idOf)));

describe('withoutPoints', () => {
  const full = entry('a', 'FULL-1.qcow2');
  const inc = entry('a', 'INC-2.qcow2', { parent: 'FULL-1.qcow2' });
  const diff = entry('a', 'DIFF-3.qcow2', { parent: 'FULL-1.qcow2' });

  it('names the files and bitmaps of what is dropped, and nothing that is kept', () => {
    const of = catalog([point(0, [full]), point(1, [inc]), point(2, [diff])]);
    const left = without(of, 1);
    expect(left.points.map(({ id }) => id)).toEqual([idOf(0), idOf(2)]);
    expect(left.retiredFiles).toEqual([{ folder: 'a', file: 'INC-2.qcow2' }]);
    expect(left.retired).toEqual([inc.bitmap?.name]);
    expect([schemaOf(of), schemaOf(left)]).toEqual([1, 2]);
    expect(readCatalogValue(JSON.parse(JSON.stringify({ ...left, schema: 2 }))).ok).toBe(true);
    const accounts = accountsOf(left, undefined);
    expect([kindOf('a', 'INC-2.qcow2', accounts), kindOf('a', 'DIFF-3.qcow2', accounts)]).toEqual(['retired', null]);
  });

  it('keeps a file whose name a merged entry of a dropped point has, too', () => {
    const of = catalog([point(0, [{ ...full, state: 'merged' }]), point(1, [full])]);
    expect(without(of, 0).retiredFiles).toEqual([]);
  });

  it('names the files of a definition', () => {
    const files = [{ kind: 'domain' as const, file: 'DOMAIN-1.xml', path: null, size: 1, sha256: 'b'.repeat(64) }];
    const of = catalog([point(0, [full], { definition: { files, autostart: null, missing: [] } }), point(1, [inc])]);
    expect(without(of, 0).retiredFiles).toContainEqual({ folder: 'definition', file: 'DOMAIN-1.xml' });
  });

  it('is no old catalog beside its own copy, whichever point it has dropped', () => {
    const of = catalog([point(0, [full]), point(1, [inc]), point(2, [diff])]);
    expect(isOlderThan(catalog(of.points.slice(0, 2)), of)).toBe(true);
    expect(isOlderThan(without(of, 2), of)).toBe(false);
    expect(isOlderThan(without(of, 1), of)).toBe(false);
    expect(isOlderThan(without(of, 0, 1, 2), of)).toBe(false);
  });

  it('hands on hardware to the next point of the chain, where that has none of its own', () => {
    const of = (name: string): Hardware => ({ name }) as unknown as Hardware;
    const { machine } = point(0, [full]);
    const withHardware = (name: string | null) => ({
      machine: name === null ? machine : { ...machine, hardware: of(name) },
    });
    const points = [
      point(0, [full], withHardware('x')),
      point(1, [entry('a', 'FULL-5.qcow2')], { ...withHardware(null), chain: 'other' }),
      point(2, [inc], withHardware(null)),
      point(3, [diff], withHardware('y')),
      point(4, [entry('a', 'FULL-9.qcow2')], withHardware(null)),
    ];
    const hardwareOf = (left: Catalog) => left.points.map((each) => each.machine.hardware);
    expect(hardwareOf(without(catalog(points), 0))).toEqual([undefined, of('x'), of('y'), undefined]);
    expect(hardwareOf(without(catalog(points), 0, 2))).toEqual([undefined, of('y'), undefined]);
    expect(hardwareOf(without(catalog(points), 0, 2, 3))).toEqual([undefined, of('y')]);
  });

  it('hands on which disks are gone, unless they came back', () => {
    const b = entry('b', 'FULL-1.qcow2');
    const points = [point(0, [full, b]), point(1, [inc], { removed: ['b'] }), point(2, [diff])];
    expect(without(catalog(points), 1).points.map(({ removed }) => removed)).toEqual([[], ['b']]);
    const back = [...points.slice(0, 2), point(2, [diff, entry('b', 'FULL-4.qcow2')])];
    expect(without(catalog(back), 1).points.map(({ removed }) => removed)).toEqual([[], []]);
  });

  it('does not remember bitmaps without end, and the newest for certain', () => {
    let of = catalog(Array.from({ length: 150 }, (_, n) => point(n, [entry('a', `FULL-${n}.qcow2`)])));
    of = without(of, ...Array.from({ length: 150 }, (_, n) => n));
    expect(of.retired).toHaveLength(100);
    expect(of.retired.at(-1)).toContain('FULL-149');
  });
});

describe('trackedPoints', () => {
  it('are those of the newest tracked file of each disk that is not gone', () => {
    const off = entry('a', 'INC-3.qcow2', { parent: 'INC-2.qcow2', bitmap: null });
    const of = catalog([
      point(0, [entry('a', 'FULL-1.qcow2'), entry('b', 'FULL-1.qcow2'), entry('c', 'FULL-1.qcow2')]),
      point(1, [entry('a', 'INC-2.qcow2', { parent: 'FULL-1.qcow2' })], { removed: ['c'] }),
      point(2, [off]),
    ]);
    expect(trackedPoints(of)).toEqual([
      { id: idOf(1), disk: 'a' },
      { id: idOf(0), disk: 'b' },
    ]);
    expect(trackedPoints(catalog([]))).toEqual([]);
  });
});

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { catalogText, readCatalogText, readCatalogValue } from '../../../src/core/catalog.js';
import {
  describedSource,
  latestFile,
  latestFull,
  latestTracked,
  backingChainOf,
  neededBitmaps,
} from '../../../src/core/chain.js';
import type { Point } from '../../../src/core/point.js';
import { nextNumber, numberInName } from '../../../src/core/names.js';
import { catalog, entry, point } from '../../support/builders.js';

describe('the source of a line', () => {
  const described = (file: string, image: unknown) => {
    const of = entry('a', file);
    return { ...of, source: { ...of.source, file: `/images/${file}`, image } };
  };

  it('is that of its last file, described by the last file that has a description', () => {
    const line = [described('FULL-1.qcow2', { a: 1 }), described('INC-2.qcow2', null), described('INC-3.qcow2', null)];
    expect(describedSource(line)).toMatchObject({ file: '/images/INC-3.qcow2', image: { a: 1 } });
    expect(describedSource(line.slice(0, 1))).toMatchObject({ file: '/images/FULL-1.qcow2', image: { a: 1 } });
    expect(describedSource(line.slice(1))).toMatchObject({ image: null });
    expect(describedSource([])).toBeUndefined();
  });
});

describe('the parent of a disk', () => {
  const a0 = entry('a', 'FULL-1.qcow2');
  const b0 = entry('b', 'FULL-1.qcow2');
  const a1 = entry('a', 'INC-2.qcow2', { parent: 'FULL-1.qcow2' });
  const b2 = entry('b', 'INC-3.qcow2', { parent: 'FULL-1.qcow2' });
  const copy = point(3, [entry('a', 'COPY-4.qcow2', { level: 'copy' })], { chain: null, level: 'copy' });
  const held = catalog([point(0, [a0, b0]), point(1, [a1]), point(2, [b2]), copy]);

  it('is its latest sealed file of the chain, also when a point in between left it out; never a copy', () => {
    expect(latestFile(held, 'a', 'c1')).toBe(a1);
    expect(latestFile(held, 'b', 'c1')).toBe(b2);
    expect(latestFull(held, 'a', 'c1')).toBe(a0);
    expect(latestFile(held, 'a', 'c2')).toBeUndefined();
  });

  it('needs the bitmaps of the latest file and of the latest FULL, and no others', () => {
    expect([...neededBitmaps(held)].sort()).toEqual([a0, a1, b0, b2].map(({ bitmap }) => bitmap!.name).sort());
  });

  it('passes over files without a bitmap, as of a VM that was off, and keeps the bitmap of the one before', () => {
    const off = entry('a', 'INC-5.qcow2', { parent: 'INC-2.qcow2', bitmap: null });
    const after = catalog([...held.points, point(3, [off], { consistency: 'offline' })]);
    expect(latestFile(after, 'a', 'c1')).toBe(off);
    expect(latestTracked(after, 'a', 'c1')).toBe(a1);
    expect(neededBitmaps(after)).toEqual(neededBitmaps(held));
  });

  it('a gap or a loop in a line is named', () => {
    expect(backingChainOf(held, a1)).toEqual({ files: [a0, a1] });
    const orphan = entry('a', 'INC-9.qcow2', { parent: 'INC-8.qcow2' });
    expect(backingChainOf(catalog([point(0, [orphan])]), orphan)).toEqual({ missing: 'INC-8.qcow2' });
    const one = entry('a', 'INC-1.qcow2', { parent: 'INC-2.qcow2' });
    const two = entry('a', 'INC-2.qcow2', { parent: 'INC-1.qcow2' });
    expect(backingChainOf(catalog([point(0, [one]), point(1, [two])]), one)).toEqual({ missing: 'INC-1.qcow2' });
  });
});

describe('a catalog', () => {
  const good = catalog([point(0, [entry('a', 'FULL-1.qcow2')])]);
  const increment = (number: number): Point =>
    point(number, [{ ...entry('a', `INC-${number}.qcow2`), source: { ...entry('a', '').source, image: null } }]);
  const withFile = (file: string): unknown => catalog([point(0, [{ ...entry('a', 'FULL-1.qcow2'), file }])]);

  it('that is whole is read as it was written', () => {
    expect(readCatalogValue(JSON.parse(JSON.stringify(good)))).toEqual({ ok: true, catalog: good });
  });

  it.each([
    ['without a point', catalog([])],
    ['with a FULL', good],
    ['with increments', catalog([...good.points, increment(1), increment(2)])],
    ['with a note', catalog([{ ...increment(1), note: 'before the upgrade' }, increment(2)], { schema: 2 })],
  ])('%s is the same as text, and its text the same when it is read', (_, value) => {
    const reading = readCatalogText(catalogText(value));
    expect(reading).toEqual({ ok: true, catalog: value });
    expect(reading.ok && catalogText(reading.catalog)).toBe(catalogText(value));
  });

  it('is the same in whatever way its text is laid out', () => {
    const value = catalog([...good.points, increment(1)]);
    for (const text of [
      JSON.stringify(value),
      JSON.stringify(value, null, 2),
      catalogText(value).replace(/\n$/, ' \n'),
    ])
      expect(readCatalogText(text)).toEqual({ ok: true, catalog: value });
  });

  it('has each point checked in each line, and no text that is no JSON', () => {
    const text = catalogText(catalog([...good.points, increment(1), increment(2)]));
    expect(readCatalogText(text.replace('"INC-2.qcow2"', '"../INC-2.qcow2"'))).toMatchObject({ ok: false });
    expect(readCatalogText(text.replace('"number":2', '"number":2.5'))).toMatchObject({ ok: false });
    expect(readCatalogText(text.replace('INC-2.qcow2', 'INC-1.qcow2'))).toMatchObject({ ok: false });
    expect(() => readCatalogText(text.replace('"number":2', '"number":02'))).toThrow(SyntaxError);
    expect(() => readCatalogText(text.slice(0, -20))).toThrow(SyntaxError);
    expect(() => readCatalogText(text.replace(']}\n', ',\n]}\n'))).toThrow(SyntaxError);
  });

  it.each(['/etc/passwd', '../FULL-1.qcow2', '..', '.', 'a/b', '-x', '', 'a\0b', 'a\nb'])(
    'that names the file %j is refused',
    (file) => expect(readCatalogValue(withFile(file))).toMatchObject({ ok: false, newer: false }),
  );

  it('of a later schema says so', () => {
    expect(readCatalogValue({ ...good, schema: 3 })).toMatchObject({ ok: false, newer: true });
  });

  it('that names a file twice is refused', () => {
    const twice = catalog([point(0, [entry('a', 'FULL-1.qcow2')]), point(1, [entry('a', 'FULL-1.qcow2')])]);
    expect(readCatalogValue(twice)).toMatchObject({ ok: false });
  });

  it('of any other shape is refused and never throws', () => {
    fc.assert(fc.property(fc.jsonValue(), (value) => !readCatalogValue(value).ok));
  });
});

describe('numbers in names', () => {
  it.each([
    ['FULL-1480542683.qcow2', 1480542683],
    ['INC-1480542683-disk1.qcow2', 1480542683],
    ['FULL-1480542683', 1480542683],
    ['FULL-1480542683.qcow2.partial', 1480542683],
    ['FULL-x', undefined],
    ['OTHER-1', undefined],
  ])('%s', (name, number) => expect(numberInName(name)).toBe(number));

  it('the next one is after every one there is, and never before now', () => {
    fc.assert(
      fc.property(fc.nat(), fc.array(fc.nat()), (now, numbers) => {
        const next = nextNumber(
          now,
          numbers.map((number) => `INC-${number}.qcow2`),
        );
        expect(next).toBeGreaterThanOrEqual(now);
        for (const number of numbers) expect(next).toBeGreaterThan(number);
      }),
    );
  });
});

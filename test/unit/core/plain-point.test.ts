import fc from 'fast-check';
import * as v from 'valibot';
import { expect, it } from 'vitest';
import { isPlainPoint } from '../../../src/core/plain-point.js';
import { pointSchema } from '../../../src/core/point.js';
import { entry, point } from '../../support/builders.js';

const POINTS = [
  point(0, [entry('vd1', 'FULL-1.qcow2'), entry('vd2', 'FULL-1.qcow2', { bitmap: null, sha256: null })]),
  point(1, [entry('vd1', 'INC-2.qcow2', { parent: 'FULL-1.qcow2' })], { chain: null, removed: ['vd2'] }),
  point(0, [
    entry('vd1', 'FULL-1.qcow2', { sha256: null, pieces: { bytes: 4_194_304, sha256: 'a'.repeat(64) } }),
    entry('vd2', 'FULL-1.qcow2', { sha256: null, pieces: { bytes: 65_536, sha256: 'a'.repeat(64), method: 'gmac' } }),
  ]),
  point(1, [entry('vda', 'INC-2.qcow2', { parent: 'FULL-1.qcow2' })], {
    lacks: [
      { disk: 'vdb', reason: '<shareable/>', kind: 'rule' },
      { disk: 'vdc', reason: 'Input/output error', kind: 'failed' },
      { disk: '#block12', reason: 'excluded by --exclude', kind: 'request' },
    ],
  }),
  point(2, [entry('vda', 'FULL-3.qcow2')], {
    definition: {
      files: [
        { kind: 'domain', file: 'DOMAIN-3.xml', path: null, size: 1, sha256: 'b'.repeat(64) },
        { kind: 'tpm', file: 'TPM-3-0.bin', path: 'tpm2/tpm2-00.permall', size: 1, sha256: 'c'.repeat(64) },
      ],
      autostart: null,
      missing: ['its UEFI variables'],
    },
    lacks: [],
  }),
  point(3, [entry('vda', 'FULL-4.qcow2')], { pinned: true, note: 'before the upgrade' }),
];

type Path = readonly string[];

/** The places in a value read from JSON, from the outside in. */
function placesIn(value: unknown, path: Path = []): readonly Path[] {
  if (typeof value !== 'object' || value === null) return [path];
  return [path, ...Object.entries(value).flatMap(([key, inner]) => placesIn(inner, [...path, key]))];
}

type Change = (holder: Record<string, unknown>, key: string) => void;

/** A copy in which one place is changed; null for the outermost place, which nothing holds. */
function changedAt(value: unknown, path: Path, change: Change): unknown {
  const holder = { value: JSON.parse(JSON.stringify(value)) as unknown };
  const way = ['value', ...path];
  const last = way.pop()!;
  const at = way.reduce<unknown>((outer, key) => (outer as Record<string, unknown>)[key], holder);
  change(at as Record<string, unknown>, last);
  return holder.value;
}

function removeAt(holder: Record<string, unknown>, key: string): void {
  // JSON has no lists with holes.
  if (Array.isArray(holder)) holder.splice(Number(key), 1);
  else Reflect.deleteProperty(holder, key);
}

/** The schema drops fields that it does not know; what passes the quick test has none. */
function schemaTakesAsItIs(value: unknown): boolean {
  const result = v.safeParse(pointSchema, value);
  return result.success && JSON.stringify(sorted(result.output)) === JSON.stringify(sorted(value));
}

function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== 'object' || value === null) return value;
  const entries = Object.entries(value).toSorted(([a], [b]) => (a < b ? -1 : 1));
  return entries.map(([key, inner]) => [key, sorted(inner)]);
}

const telling: readonly unknown[] = [
  ...[null, true, '', 'a', '..', '.x', '../x', '/etc/passwd', 'a/b', 'a\n', 'a'.repeat(255), 'a'.repeat(256)],
  ...[
    'a'.repeat(1000),
    'a'.repeat(1001),
    'a'.repeat(1024),
    'a'.repeat(64),
    'A'.repeat(64),
    `${'a'.repeat(64)}\n`,
    'full',
    'diff',
    'merging',
    'offline',
  ],
  ...[0, -1, 1.5, -0.5, Number.POSITIVE_INFINITY, 2 ** 53, [], {}, ['x'], [null], { name: 'x', persistent: true }],
];
const set = fc.oneof(fc.constantFrom(...telling), fc.jsonValue()).map((value): Change => (holder, key) => {
  holder[key] = value;
});
const remove = fc.constant<Change>(removeAt);
const add = fc.constantFrom('x', '__proto__', 'image', 'toString').map((name): Change => (holder, key) => {
  const inner = holder[key];
  const into = typeof inner === 'object' && inner !== null ? inner : holder;
  Object.defineProperty(into, name, { value: 1, enumerable: true, configurable: true, writable: true });
});
const cases = POINTS.flatMap((value) => placesIn(value).map((path) => ({ value, path })));

it('takes points as they are written', () => {
  for (const value of POINTS) expect(isPlainPoint(JSON.parse(JSON.stringify(value)))).toBe(true);
});

it('agrees with the schema wherever a point is changed', () => {
  for (const { value, path } of cases) {
    for (const wrong of telling) {
      const changed = changedAt(value, path, (holder, key) => {
        holder[key] = wrong;
      });
      expect(isPlainPoint(changed), `${path.join('.')} = ${JSON.stringify(wrong)}`).toBe(schemaTakesAsItIs(changed));
    }
  }
  fc.assert(
    fc.property(fc.constantFrom(...cases), fc.oneof(set, remove, add), ({ value, path }, change) => {
      const changed = changedAt(value, path, change);
      expect(isPlainPoint(changed)).toBe(schemaTakesAsItIs(changed));
    }),
    { numRuns: 2000 },
  );
});

it('takes no point with a field missing or one too many', () => {
  for (const { value, path } of cases) {
    if (path.length === 0 || path.includes('image')) continue;
    const without = changedAt(value, path, removeAt);
    const mayGo =
      /^\d+$/.test(path.at(-1)!) ||
      ['definition', 'lacks', 'pieces', 'method', 'pinned', 'note'].includes(path.at(-1)!);
    expect(isPlainPoint(without), path.join('.')).toBe(mayGo && schemaTakesAsItIs(without));
  }
  expect(isPlainPoint({ ...POINTS[0], more: 1 })).toBe(false);
});

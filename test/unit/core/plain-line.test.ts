import fc from 'fast-check';
import * as v from 'valibot';
import { expect, it } from 'vitest';
import { isPlainLine } from '../../../src/core/plain-line.js';
import { type PointDisk, pointSchema } from '../../../src/core/point.js';
import { entry as anyEntry, point } from '../../support/builders.js';

/** Of a file that builds on another. */
function entry(disk: string, file: string, more: Partial<PointDisk> = {}): PointDisk {
  const made = anyEntry(disk, file, more);
  return { ...made, source: { ...made.source, image: null } };
}

const POINTS = [
  point(0, [entry('vd1', 'FULL-1.qcow2'), entry('vd2', 'FULL-1.qcow2', { bitmap: null, sha256: null })]),
  point(1, [entry('vd1', 'INC-2.qcow2', { parent: 'FULL-1.qcow2' })], { chain: null, removed: ['vd2'] }),
  point(0, [
    entry('vd1', 'FULL-1.qcow2', { sha256: null, pieces: { bytes: 4_194_304, sha256: 'a'.repeat(64) } }),
    entry('vd2', 'FULL-1.qcow2', { sha256: null, pieces: { bytes: 131_072, sha256: 'a'.repeat(64), method: 'gmac' } }),
  ]),
  point(2, [entry('vd1', 'INC-3.qcow2', { parent: 'FULL-1.qcow2', compared: true }), entry('vd2', 'INC-3.qcow2')]),
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
].map((each) => v.parse(pointSchema, each));

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
  for (const value of POINTS) expect(isPlainLine(JSON.stringify(value)), JSON.stringify(value)).toBe(true);
});

it('takes nothing that the schema does not take as it is, wherever a point is changed', () => {
  for (const { value, path } of cases) {
    for (const wrong of telling) {
      const changed = changedAt(value, path, (holder, key) => {
        holder[key] = wrong;
      });
      expectSound(JSON.stringify(changed));
    }
  }
  fc.assert(
    fc.property(fc.constantFrom(...cases), fc.oneof(set, remove, add), ({ value, path }, change) => {
      expectSound(JSON.stringify(changedAt(value, path, change)));
    }),
    { numRuns: 2000 },
  );
});

it('takes nothing else as a point, wherever its line is changed', () => {
  const lines = fc.constantFrom(...POINTS.map((value) => JSON.stringify(value)));
  const pieces = fc.oneof(
    fc.string({ maxLength: 3 }),
    fc.constantFrom(
      '"',
      '\\',
      '\\"',
      '\\u0000',
      ',',
      ',,',
      '{',
      '}',
      '[]',
      'null',
      '0',
      '00',
      '-',
      'e9',
      '.5',
      '\n',
      '9'.repeat(20),
    ),
  );
  fc.assert(
    fc.property(lines, fc.nat(), fc.nat(20), pieces, (line, place, length, piece) => {
      const at = place % line.length;
      expectSound(line.slice(0, at) + piece + line.slice(at + length));
    }),
    { numRuns: 5000 },
  );
});

/** A plain line is one that the schema takes as it is, where it is JSON at all. */
function expectSound(line: string): void {
  if (!isPlainLine(line)) return;
  const value = parsed(line);
  if (value !== undefined) expect(schemaTakesAsItIs(value), line).toBe(true);
}

function parsed(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

it('takes no point with a field missing or one too many', () => {
  for (const { value, path } of cases) {
    if (path.length === 0) continue;
    const without = JSON.stringify(changedAt(value, path, removeAt));
    const mayGo =
      /^\d+$/.test(path.at(-1)!) || ['definition', 'lacks', 'pieces', 'method', 'compared'].includes(path.at(-1)!);
    expect(isPlainLine(without), path.join('.')).toBe(mayGo && schemaTakesAsItIs(parsed(without)));
  }
  expect(isPlainLine(JSON.stringify({ ...POINTS[0], more: 1 }))).toBe(false);
});

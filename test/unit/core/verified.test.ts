import { describe, expect, it } from 'vitest';
import type { ByteRange } from '../../../src/core/pieces.js';
import {
  afterLook,
  fileKey,
  knownOf,
  readVerifiedValue,
  rememberedDamage,
  sealedAs,
  type VerifiedFile,
} from '../../../src/core/verified.js';
import { catalog, entry, point } from '../../support/builders.js';

const full = entry('d1', 'FULL-1.qcow2');
const inc = entry('d1', 'INC-2.qcow2', {
  parent: full.file,
  sha256: null,
  pieces: { bytes: 65536, sha256: 'b'.repeat(64) },
});
const target = catalog([point(0, [full]), point(1, [inc])]);
const [EARLY, LATE] = ['2026-11-01T00:00:00.000Z', '2026-11-02T00:00:00.000Z'];
const damaged = { code: 'damaged', why: 'its bytes are others' } as const;

describe('what is remembered of a file', () => {
  it('is when it was read, and that it was damaged, until it reads right', () => {
    const read = afterLook(undefined, { entry: full, fault: undefined, readWith: 7 }, EARLY);
    expect(read).toMatchObject({ readAt: EARLY, mtimeMs: 7, damage: null, of: sealedAs(full) });
    const found = afterLook(read, { entry: full, fault: damaged, readWith: undefined }, LATE);
    expect(found).toMatchObject({ readAt: EARLY, damage: { ...damaged, foundAt: LATE } });
    expect(afterLook(found, { entry: full, fault: undefined, readWith: undefined }, LATE)).toBe(found);
    expect(afterLook(found, { entry: full, fault: undefined, readWith: 8 }, LATE)).toMatchObject({ damage: null });
  });

  it('is damage in all places where it was found, and in none that is known where one look did not tell', () => {
    const [first, second] = [
      { start: 0, end: 10 },
      { start: 20, end: 30 },
    ];
    const look = (before: VerifiedFile | undefined, ranges: readonly ByteRange[] | undefined, now: string) =>
      afterLook(before, { entry: full, fault: { ...damaged, ranges }, readWith: undefined }, now);
    const found = look(undefined, [second], EARLY);
    expect(look(found, [second], LATE)?.damage).toEqual({ ...damaged, foundAt: EARLY, ranges: [second] });
    expect(look(found, [first], LATE)?.damage).toEqual({ ...damaged, foundAt: EARLY, ranges: [first, second] });
    const unknown = look(found, undefined, LATE);
    expect(unknown?.damage).toEqual({ ...damaged, foundAt: EARLY });
    expect(look(unknown, [first], LATE)?.damage).toEqual({ ...damaged, foundAt: EARLY });
  });

  it.each(['missing', 'unreadable', 'not-a-file', 'no-folder'] as const)('is never that it is %s', (code) => {
    expect(
      afterLook(undefined, { entry: full, fault: { code, why: 'w' }, readWith: undefined }, EARLY),
    ).toBeUndefined();
  });

  it('without a digest is that it looks right again', () => {
    const plain = entry('d1', 'FULL-1.qcow2', { sha256: null });
    const found = afterLook(
      undefined,
      { entry: plain, fault: { code: 'corrupt', why: 'w' }, readWith: undefined },
      EARLY,
    );
    expect(found?.damage).not.toBeNull();
    expect(afterLook(found, { entry: plain, fault: undefined, readWith: undefined }, LATE)).toMatchObject({
      damage: null,
      readAt: null,
    });
  });

  it('is of what was sealed under the name, and of nothing else', () => {
    const files = [full, inc].map((each) =>
      afterLook(undefined, { entry: each, fault: damaged, readWith: undefined }, EARLY)!,
    );
    const known = knownOf(target, { files });
    expect([...rememberedDamage(known)]).toEqual(
      [full, inc].map((each) => [
        fileKey(each),
        { code: 'damaged', why: `verify found on ${EARLY}: its bytes are others` },
      ]),
    );
    const rebased = catalog([point(0, [{ ...full, sha256: 'c'.repeat(64) }]), point(1, [{ ...inc, state: 'merged' }])]);
    expect(knownOf(rebased, { files }).size).toBe(0);
    expect(knownOf(target, undefined).size).toBe(0);
  });

  it('is read only where it has our shape', () => {
    const file = afterLook(undefined, { entry: full, fault: damaged, readWith: undefined }, EARLY);
    const value = { schema: 1, targetId: 'x', files: [file] };
    expect(readVerifiedValue(value)).toEqual(value);
    for (const wrong of [null, [], {}, { ...value, schema: 2 }, { ...value, files: [{ ...file, file: '../x' }] }]) {
      expect(readVerifiedValue(wrong)).toBeUndefined();
    }
  });
});

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Catalog } from '../../../src/core/catalog.js';
import { chainOf } from '../../../src/core/chain.js';
import { consolidated, type MadeFile, planConsolidation, relinkedBy } from '../../../src/core/consolidation.js';
import { linkOf, type PointDisk } from '../../../src/core/point.js';
import { catalog, entry, MiB, point } from '../../support/builders.js';

/** A FULL and increments of one disk, each on the file that `parents` gives. */
function chain(parents: readonly (number | null)[], more: Partial<PointDisk> = {}): Catalog {
  const name = (at: number): string => `${parents[at] === null ? 'FULL' : 'INC'}-${at}.qcow2`;
  return catalog(
    parents.map((parent, at) =>
      point(at, [entry('d1', name(at), { parent: parent === null ? null : name(parent), virtualSize: MiB, ...more })]),
    ),
  );
}

/** With another first disk of one point. */
function withFirstEntry(before: Catalog, at: number, more: Partial<PointDisk>): Catalog {
  const points = before.points.map((each, index) =>
    index === at
      ? { ...each, disks: each.disks.map((disk, place) => (place === 0 ? { ...disk, ...more } : disk)) }
      : each,
  );
  return { ...before, points };
}

const idOf = (number: number): string => `${number}`.padStart(12, '0');
const dropping = (...numbers: number[]): ReadonlySet<string> => new Set(numbers.map(idOf));
const facts = { compressed: false, size: 1, allocated: 1, mtimeMs: 2, sha256: null };

function after(before: Catalog, dropped: ReadonlySet<string>): Catalog {
  const { lines } = planConsolidation(before, dropped);
  const made = lines.map((line, at): MadeFile => ({ line, file: `NEW-${at}.qcow2`, ...facts }));
  return consolidated(before, { dropped, made, links: new Map() });
}

describe('planConsolidation', () => {
  it('has a line for each file that stays and builds on some that go', () => {
    const of = (found: ReturnType<typeof planConsolidation>) =>
      found.lines.map(({ files }) => files.map(({ file }) => file));
    const plain = chain([null, 0, 1, 2, 3]);
    expect(of(planConsolidation(plain, dropping(1, 2)))).toEqual([['INC-1.qcow2', 'INC-2.qcow2', 'INC-3.qcow2']]);
    expect(of(planConsolidation(plain, dropping(0, 2)))).toEqual([
      ['FULL-0.qcow2', 'INC-1.qcow2'],
      ['INC-2.qcow2', 'INC-3.qcow2'],
    ]);
    expect(of(planConsolidation(plain, dropping(4)))).toEqual([]);
  });

  it('merges nothing into two, and no disk that shrank', () => {
    const branch = planConsolidation(chain([null, 0, 1, 1]), dropping(0, 1));
    expect(branch.unmergeable).toContainEqual({
      ...{ point: idOf(1), disk: 'd1', file: 'INC-1.qcow2' },
      why: 'INC-2.qcow2 and INC-3.qcow2 build on it',
    });
    const shrunk = withFirstEntry(chain([null, 0]), 0, { virtualSize: 2 * MiB });
    expect(planConsolidation(shrunk, dropping(0)).unmergeable).toHaveLength(1);
  });
});

describe('consolidated', () => {
  it('has the new file in the place of the old one, with all that went before handed on', () => {
    const plaintext = withFirstEntry(chain([null, 0, 1, 2]), 1, { plaintextOfEncrypted: true });
    const before = withFirstEntry(plaintext, 0, { suspect: 'a reason' });
    const next = after(before, dropping(0, 1));
    expect(next.points.map(({ number, level }) => [number, level])).toEqual([
      [2, 'full'],
      [3, 'inc'],
    ]);
    expect(next.points[0]!.disks[0]).toMatchObject({
      ...{ file: 'NEW-0.qcow2', parent: null, level: 'full', plaintextOfEncrypted: true, suspect: 'a reason' },
      bitmap: before.points[2]!.disks[0]!.bitmap,
    });
    expect(next.points[1]!.disks[0]).toMatchObject({ parent: 'NEW-0.qcow2', link: { name: 'INC-2.qcow2' } });
    expect(linkOf(next.points[1]!.disks[0]!)).toBe('INC-2.qcow2');
    expect(next.retiredFiles?.map(({ file }) => file)).toEqual(['FULL-0.qcow2', 'INC-1.qcow2', 'INC-2.qcow2']);
  });

  it('builds new files on new ones', () => {
    const next = after(chain([null, 0, 1, 2]), dropping(0, 2));
    expect(next.points.map(({ disks }) => [disks[0]!.file, disks[0]!.parent])).toEqual([
      ['NEW-0.qcow2', null],
      ['NEW-1.qcow2', 'NEW-0.qcow2'],
    ]);
  });

  it('whatever goes: what stays has its whole chain, no file is both needed and retired, and links are those of headers', () => {
    fc.assert(
      fc.property(
        fc.array(fc.nat(), { minLength: 1, maxLength: 8 }).map((raw) => [null, ...raw.map((n, at) => n % (at + 1))]),
        fc.array(fc.nat({ max: 8 })),
        (parents, numbers) => {
          const before = chain(parents);
          const dropped = dropping(...numbers.filter((n) => n < parents.length - 1));
          const { lines, unmergeable } = planConsolidation(before, dropped);
          fc.pre(unmergeable.length === 0);
          const next = after(before, dropped);
          const left = next.points.flatMap(({ disks }) => disks);
          expect(next.points.map(({ id }) => id)).toEqual(
            before.points.map(({ id }) => id).filter((id) => !dropped.has(id)),
          );
          const files = new Set(left.map(({ file }) => file));
          for (const each of left) {
            const found = chainOf(next, each);
            expect(found.fault).toBeNull();
            expect(found.files[0]?.level).toBe('full');
          }
          for (const { file } of next.retiredFiles ?? []) expect(files.has(file)).toBe(false);
          const made = lines.map((line, at) => ({ line, file: `NEW-${at}.qcow2` }));
          const relinked = new Set(relinkedBy(before, made, dropped).map(({ entry: { file } }) => file));
          for (const { file, link } of left) expect(link !== undefined).toBe(relinked.has(file));
        },
      ),
    );
  });
});

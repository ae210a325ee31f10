import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Catalog, readCatalogValue } from '../../../src/core/catalog.js';
import { latestFile, backingChainOf } from '../../../src/core/chain.js';
import {
  dropMerged,
  type FileFacts,
  leftovers,
  chainToRead,
  markMerging,
  rebaseFiles,
  type RebasePlan,
  planRebase,
  settleRebase,
} from '../../../src/core/rebase-plan.js';
import { QmpBackupError } from '../../../src/errors.js';
import { catalog, entry, MiB, point } from '../../support/builders.js';

const FULL = entry('a', 'FULL-0.qcow2');
const INC1 = entry('a', 'INC-1.qcow2', { parent: 'FULL-0.qcow2' });
const INC2 = entry('a', 'INC-2.qcow2', { parent: 'INC-1.qcow2' });
const INC3 = entry('a', 'INC-3.qcow2', { parent: 'INC-2.qcow2' });

function chain(): Catalog {
  return catalog([FULL, INC1, INC2, INC3].map((each, number) => point(number, [each])));
}

function plan(of: Catalog, until?: string): RebasePlan {
  return planRebase(rebaseFiles(of, 'a'), until);
}

function names(files: readonly { readonly file: string }[]): readonly string[] {
  return files.map(({ file }) => file);
}

function facts(...files: string[]): ReadonlyMap<string, FileFacts> {
  return new Map(files.map((file) => [file, { size: 7, allocated: 7, mtimeMs: 7, sha256: null, pieces: undefined }]));
}

function refusal(run: () => unknown): QmpBackupError {
  try {
    run();
  } catch (error) {
    if (error instanceof QmpBackupError) return error;
    throw error;
  }
  throw new Error('it was not refused');
}

describe('planMerge', () => {
  it('takes the whole branch of the newest FULL', () => {
    const old = catalog([...chain().points, point(0, [entry('a', 'FULL-9.qcow2')], { chain: 'c2' })]);
    expect(names(plan(chain()).line)).toEqual(['FULL-0.qcow2', 'INC-1.qcow2', 'INC-2.qcow2', 'INC-3.qcow2']);
    expect(names(plan(old).line)).toEqual(['FULL-9.qcow2']);
    expect(names(plan(old, 'INC-3').line)).toHaveLength(4);
  });

  it('stops at --until and re-links what builds on it', () => {
    const found = plan(chain(), 'INC-2.qcow2');
    expect(names(found.line)).toEqual(['FULL-0.qcow2', 'INC-1.qcow2', 'INC-2.qcow2']);
    expect(names(found.children)).toEqual(['INC-3.qcow2']);
    expect(found.side).toEqual([]);
  });

  it('leaves out copies and other disks', () => {
    const more = catalog([
      ...chain().points,
      point(0, [entry('a', 'COPY-5.qcow2', { level: 'copy' })], { chain: null, level: 'copy' }),
      point(4, [entry('b', 'FULL-6.qcow2')]),
    ]);
    expect(plan(more).head.file).toBe('INC-3.qcow2');
    expect(refusal(() => plan(more, 'COPY-5.qcow2'))).toMatchObject({ code: 'usage' });
  });

  it('takes older branches along, with all that builds on them, and refuses newer ones', () => {
    const side = catalog([
      point(0, [FULL]),
      point(1, [INC1]),
      point(2, [INC2]),
      point(3, [entry('a', 'DIFF-4.qcow2', { parent: 'FULL-0.qcow2' })]),
    ]);
    expect(names(plan(side).side)).toEqual(['INC-1.qcow2', 'INC-2.qcow2']);
    expect(refusal(() => plan(side, 'INC-2'))).toMatchObject({
      code: 'unsafe',
      message: 'DIFF-4.qcow2 builds on FULL-0.qcow2, which merging up to INC-2.qcow2 would change',
    });
  });

  it('refuses gaps, chains without a FULL, loops and shrunk disks by name', () => {
    const gap = catalog([point(0, [FULL]), point(1, [INC2])]);
    expect(refusal(() => plan(gap, 'INC-2')).message).toContain('INC-1.qcow2 is missing');
    const headless = catalog([point(0, [{ ...INC1, parent: null }])]);
    expect(refusal(() => plan(headless, 'INC-1')).message).toContain('INC-1.qcow2 is no FULL file');
    expect(refusal(() => plan(headless)).message).toContain('no FULL');
    const loop = catalog([point(0, [FULL]), point(1, [{ ...INC1, parent: 'INC-2.qcow2' }]), point(2, [INC2])]);
    expect(refusal(() => plan(loop, 'INC-2'))).toMatchObject({ code: 'unsafe' });
    const shrunk = catalog([point(0, [FULL]), point(1, [{ ...INC1, virtualSize: MiB }])]);
    expect(refusal(() => plan(shrunk)).message).toContain('INC-1.qcow2 is a smaller disk than FULL-0.qcow2');
    expect(names(chainToRead(rebaseFiles(shrunk, 'a')))).toHaveLength(2);
  });

  it('says what there is when --until names nothing', () => {
    expect(refusal(() => plan(chain(), 'INC-7'))).toMatchObject({
      code: 'usage',
      hint: 'There are: FULL-0.qcow2, INC-1.qcow2, INC-2.qcow2, INC-3.qcow2',
    });
  });

  it('finishes an interrupted merge, and nothing else first', () => {
    const merging = markMerging(chain(), 'a', plan(chain(), 'INC-2'));
    const again = plan(merging);
    expect(again).toMatchObject({ resumes: true, head: { file: 'INC-2.qcow2' } });
    expect(names(again.children)).toEqual(['INC-3.qcow2']);
    expect(plan(merging, 'INC-2.qcow2')).toEqual(again);
    expect(refusal(() => plan(merging, 'INC-1.qcow2'))).toMatchObject({ code: 'unsafe' });
    expect(refusal(() => plan(merging, 'INC-3.qcow2')).message).toContain('a merge up to INC-2.qcow2 was interrupted');
    expect(refusal(() => chainToRead(rebaseFiles(merging, 'a')))).toMatchObject({ code: 'unsafe' });
  });

  it('finishes it also when a new FULL was taken meanwhile', () => {
    const merging = markMerging(chain(), 'a', plan(chain()));
    const more = { ...merging, points: [...merging.points, point(4, [entry('a', 'FULL-8.qcow2')])] };
    expect(plan(more)).toMatchObject({ resumes: true, head: { file: 'INC-3.qcow2' } });
  });
});

describe('the catalog of a merge', () => {
  it('has one FULL, whose bitmap is the head’s, and retires the others', () => {
    const found = plan(chain());
    const settled = settleRebase(markMerging(chain(), 'a', found), 'a', found, facts('FULL-0.qcow2'));
    expect(readCatalogValue(settled)).toMatchObject({ ok: true });
    expect(leftovers(settled).map(({ file }) => file)).toEqual(['INC-3.qcow2', 'INC-1.qcow2', 'INC-2.qcow2']);
    const done = dropMerged(settled);
    expect(done.points).toHaveLength(1);
    expect(done.points[0]).toMatchObject({ number: 3, level: 'full' });
    expect(done.points[0]?.disks[0]).toMatchObject({ file: 'FULL-0.qcow2', bitmap: INC3.bitmap, size: 7 });
    expect(done.retired).toEqual([FULL, INC1, INC2].map(({ bitmap }) => bitmap?.name));
    expect(dropMerged(done)).toBe(done);
    expect(leftovers(done)).toEqual([]);
  });

  it('takes the definitions of a domain away with their points', () => {
    const named = (number: number) => ({
      files: [{ kind: 'domain' as const, file: `DOMAIN-${number}.xml`, path: null, size: 1, sha256: 'b'.repeat(64) }],
      autostart: true,
      missing: [],
    });
    const { points, ...rest } = chain();
    const held = { ...rest, points: points.map((each) => ({ ...each, definition: named(each.number) })) };
    const found = plan(held, 'INC-2');
    const settled = settleRebase(markMerging(held, 'a', found), 'a', found, facts('FULL-0.qcow2', 'INC-3.qcow2'));
    expect(leftovers(settled).filter(({ disk }) => disk === 'definition')).toEqual([
      { disk: 'definition', file: 'DOMAIN-0.xml' },
      { disk: 'definition', file: 'DOMAIN-1.xml' },
    ]);
    expect(dropMerged(settled).points.map(({ definition }) => definition)).toEqual([named(2), named(3)]);
  });

  it('keeps QEMU’s description of the image, which only whole files have', () => {
    const files = [FULL, INC1, INC2].map((each) => ({
      ...each,
      source: { ...each.source, file: `/images/${each.file}`, image: each === FULL ? { format: 'qcow2' } : null },
    }));
    const held = catalog(files.map((each, number) => point(number, [each])));
    const found = plan(held);
    const done = dropMerged(settleRebase(markMerging(held, 'a', found), 'a', found, facts('FULL-0.qcow2')));
    expect(done.points[0]?.disks[0]?.source).toMatchObject({
      file: '/images/INC-2.qcow2',
      image: { format: 'qcow2' },
    });
  });

  it('keeps what other disks have in the same points', () => {
    const both = catalog(
      [FULL, INC1, INC2].map((each, number) => point(number, [each, { ...each, disk: 'b', bitmap: null }])),
    );
    const found = plan(both);
    const done = dropMerged(settleRebase(markMerging(both, 'a', found), 'a', found, facts('FULL-0.qcow2')));
    expect(done.points).toHaveLength(3);
    expect(done.retired).toEqual([]);
    expect(done.points.flatMap(({ disks }) => disks).filter(({ disk }) => disk === 'b')).toEqual(
      both.points.flatMap(({ disks }) => disks).filter(({ disk }) => disk === 'b'),
    );
    expect(readCatalogValue(done)).toMatchObject({ ok: true });
  });

  it('marks a result that holds plaintext or compressed data from anywhere in the line', () => {
    const marked = catalog([
      point(0, [{ ...FULL, plaintextOfEncrypted: true }]),
      point(1, [{ ...INC1, compressed: true }]),
      point(2, [INC2]),
    ]);
    const found = plan(marked);
    const done = dropMerged(settleRebase(markMerging(marked, 'a', found), 'a', found, facts('FULL-0.qcow2')));
    expect(done.points[0]?.disks[0]).toMatchObject({ plaintextOfEncrypted: true, compressed: true });
  });

  /** Any tree of a few FULLs, increments and DIFFs, merged at any file: what is left is whole, nothing is forgotten. */
  it('never loses a point that it does not say it loses', () => {
    const steps = fc.array(fc.record({ full: fc.boolean(), parent: fc.nat(20) }), { minLength: 1, maxLength: 12 });
    fc.assert(
      fc.property(steps, fc.nat(20), fc.boolean(), (tree, pick, crash) => {
        const files: string[] = [];
        const points = tree.map(({ full, parent }, index) => {
          const isFull = index === 0 || full;
          const file = `${isFull ? 'FULL' : 'INC'}-${index}.qcow2`;
          const on = isFull ? null : (files[parent % files.length] ?? null);
          files.push(file);
          return point(index, [entry('a', file, { parent: on })]);
        });
        const before = catalog(points);
        const until = files[pick % files.length];
        let found: RebasePlan;
        try {
          found = plan(before, until);
        } catch (error) {
          expect(error).toMatchObject({ code: 'unsafe' });
          return;
        }
        if (found.line.length === 1) return;
        const marked = markMerging(before, 'a', found);
        expect(readCatalogValue(marked)).toMatchObject({ ok: true });
        if (crash)
          expect({ ...plan(marked), resumes: false }).toMatchObject({ head: found.head, children: found.children });
        const settled = settleRebase(marked, 'a', found, facts(found.full.file, ...names(found.children)));
        expect(readCatalogValue(settled)).toMatchObject({ ok: true });
        const done = dropMerged(settled);

        const gone = new Set([...names(found.line.slice(1)), ...names(found.side)]);
        expect(new Set(names(leftovers(settled)))).toEqual(gone);
        const whole = done.points.flatMap(({ disks }) => disks).filter(({ state }) => state === 'whole');
        const lost = found.side.length + found.line.length - 1;
        expect(whole).toHaveLength(points.length - lost);
        for (const each of whole) expect(backingChainOf(done, each)).toHaveProperty('files');
        const bitmaps = new Set([...done.retired, ...whole.map(({ bitmap }) => bitmap?.name)]);
        expect(bitmaps.size).toBe(points.length);
        expect(latestFile(done, 'a')?.bitmap).toBeDefined();
      }),
      { numRuns: 1000 },
    );
  });
});

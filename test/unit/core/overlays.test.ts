import { describe, expect, it } from 'vitest';
import { neededBitmaps } from '../../../src/core/chain.js';
import type { SourceDisk } from '../../../src/core/disk.js';
import { lostCheckpoints } from '../../../src/core/lost-checkpoints.js';
import { type ImageLayer, layersOf } from '../../../src/core/overlay-layers.js';
import {
  isOverlay,
  isOverlayOf,
  isPassingOverlay,
  isTrackingOverlay,
  passingOverlay,
  trackingOverlay,
} from '../../../src/core/overlay-names.js';
import { planBackup } from '../../../src/core/plan.js';
import { afterSeal, reconcile, reconcileVm } from '../../../src/core/reconcile.js';
import { bitmap, catalog, entry, journal, planInput, point, source, TARGET_ID } from '../../support/builders.js';

const [OLD, NEW] = ['aaaaaaaaaaaa', 'bbbbbbbbbbbb'].map((attempt) => trackingOverlay(TARGET_ID, 'vda', attempt)) as [
  string,
  string,
];
const layer = (path: string | null, format = 'qcow2'): ImageLayer => ({ path, description: path ?? 'rbd:x', format });
const full = entry('vda', 'FULL-1.qcow2', { bitmap: { name: OLD, persistent: true } });

/** A raw disk below overlays of these names, the uppermost first. */
function overlaid(names: readonly string[], more: Partial<SourceDisk> = {}): SourceDisk {
  return source('vda', {
    ...{ format: 'raw', compat: null, cannotTrack: 'a raw disk', tracking: 'overlay' },
    bitmaps: names.map((name) => bitmap(name)),
    overlays: names.map((name, depth) => ({ name, path: `/o/${name}`, depth })),
    ...more,
  });
}

describe('the name of an overlay', () => {
  it('tells whether it stays, and for which target', () => {
    const passing = passingOverlay('0123456789ab', 'vda');
    expect([isTrackingOverlay(OLD), isPassingOverlay(OLD), isOverlay(OLD)]).toEqual([true, false, true]);
    expect([isTrackingOverlay(passing), isPassingOverlay(passing), isOverlay(passing)]).toEqual([false, true, true]);
    expect(isOverlayOf(TARGET_ID, OLD)).toBe(true);
    expect(isOverlayOf('ffffffffffffffff', OLD)).toBe(false);
    for (const other of ['vda.overlay', `qmpbackup-${TARGET_ID}-0123456789ab`, `x${OLD}`, `${OLD}.1`]) {
      expect(isOverlay(other)).toBe(false);
    }
  });
});

describe('the layers of a disk', () => {
  it('are its own image, ours above it, and what others have put above those', () => {
    expect(layersOf([layer('/i/a'), layer('/i/template')])).toMatchObject({ overlays: [], image: { path: '/i/a' } });
    expect(layersOf([layer('/o/snap'), layer(`/o/${OLD}`), layer('/dev/vg/a', 'raw')])).toEqual({
      overlays: [{ name: OLD, path: `/o/${OLD}`, depth: 1 }],
      image: layer('/dev/vg/a', 'raw'),
      above: [layer('/o/snap')],
    });
    expect(layersOf([layer(`/o/${NEW}`), layer(`/o/${OLD}`), layer(null)])).toMatchObject({
      overlays: [{ name: NEW }, { name: OLD, depth: 1 }],
      image: { path: null },
      above: [],
    });
  });
});

describe('a plan that is tracked by overlays', () => {
  const chain = catalog([point(0, [full])]);

  it('is an INC of the overlay that the newest file names, on a disk that holds no bitmap', () => {
    const plan = planBackup(planInput('inc', [overlaid([OLD])], chain, { bitmapName: () => NEW }));
    expect(plan.disks[0]).toMatchObject({ level: 'inc', copyBitmap: OLD, newBitmap: { name: NEW, persistent: true } });
    expect(plan.warnings).toEqual([]);
  });

  it('goes by no overlay that is gone, or holds not all, or where what changed is recorded otherwise, and says so', () => {
    const reasonOf = (disk: SourceDisk, before = chain): string | undefined =>
      planBackup(planInput('auto', [disk], before)).disks[0]?.reason;
    expect(reasonOf(overlaid([NEW]))).toMatch(/the overlay above FULL-1.qcow2 is gone/);
    const byBitmap = entry('vda', 'FULL-1.qcow2');
    const both = overlaid([OLD], { bitmaps: [bitmap(OLD), bitmap(byBitmap.bitmap?.name ?? '')] });
    expect(reasonOf(both, catalog([point(0, [byBitmap])]))).toMatch(/recorded by a bitmap/);
    const pulled = source('vda', { bitmaps: [bitmap(OLD)] });
    expect(reasonOf(pulled)).toMatch(/recorded by an overlay/);
    const written = overlaid([OLD], { bitmaps: [{ ...bitmap(OLD), unreadable: '/i/a is not as it was' }] });
    expect(reasonOf(written)).toMatch(
      /the overlay above FULL-1.qcow2 holds is not all that .*: \/i\/a is not as it was/,
    );
  });

  it('needs the newest overlay alone: no DIFF is made of that of the FULL', () => {
    const inc = entry('vda', 'INC-2.qcow2', { parent: full.file, bitmap: { name: NEW, persistent: true } });
    expect([...neededBitmaps(catalog([point(0, [full]), point(1, [inc])]))]).toEqual([NEW]);
    expect(lostCheckpoints(chain, [source('vda')])).toEqual([]);
  });
});

describe('the repair after a run by overlay', () => {
  const nothing = {
    ...{ olderMonths: [], jobs: [], ownNodes: [], ownExports: [], status: 'running', files: new Map() },
  };
  const overlays = [
    { target: 'vda', path: `/o/${NEW}` },
    { target: 'vda', path: '/o/gone.overlay' },
  ];
  const died = {
    ...journal('bbbbbbbbbbbb', [{ disk: 'vda', bitmap: NEW, job: 'j', file: 'INC-2.qcow2' }]),
    overlays,
  };

  it('merges the overlay of a run that was not sealed, and deletes files that are above no disk', () => {
    const sources = [overlaid([NEW, OLD])];
    const actions = reconcile({ ...nothing, catalog: catalog([point(0, [full])]), journal: died, sources });
    expect(actions.filter(({ kind }) => kind === 'remove-bitmap')).toEqual([
      expect.objectContaining({ bitmap: NEW, node: sources[0]?.address }),
      expect.objectContaining({ bitmap: NEW, why: 'no point was made with it' }),
    ]);
    expect(actions).toContainEqual({ kind: 'delete-overlay', path: '/o/gone.overlay' });
    expect(actions.at(-1)).toEqual({ kind: 'remove-journal' });
  });

  it('merges the older overlay of one that was sealed', () => {
    const inc = entry('vda', 'INC-2.qcow2', { parent: full.file, bitmap: { name: NEW, persistent: true } });
    const sealed = catalog([point(0, [full]), point(1, [inc], { id: 'bbbbbbbbbbbb' })]);
    const sources = [overlaid([NEW, OLD])];
    const merged = [expect.objectContaining({ kind: 'remove-bitmap', bitmap: OLD }) as object];
    expect(afterSeal({ catalog: sealed, olderMonths: [], sources, journal: died })).toEqual(merged);
    const actions = reconcile({ ...nothing, catalog: sealed, journal: died, sources });
    expect(actions.filter(({ kind }) => kind === 'remove-bitmap')).toEqual(merged);
  });

  it('leaves the record of another target, and merges what passes whichever target it served', () => {
    const other = trackingOverlay('ffffffffffffffff', 'vda', 'cccccccccccc');
    const sources = [overlaid([other, OLD])];
    expect(afterSeal({ catalog: catalog([point(0, [full])]), olderMonths: [], sources, journal: undefined })).toEqual(
      [],
    );
    const overlay = passingOverlay('dddddddddddd', 'vda');
    const node = { node: overlay, role: 'overlay' as const, below: '/i/a', qdev: 'vda', file: `/o/${overlay}` };
    expect(reconcileVm({ jobs: [], ownNodes: [node], ownExports: [] })).toEqual([
      { kind: 'merge-overlay', target: 'vda', overlay },
    ]);
  });
});

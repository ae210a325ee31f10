import { describe, expect, it } from 'vitest';
import { obstacleOf, setAside } from '../../../src/core/obstacles.js';
import { planBackup } from '../../../src/core/plan.js';
import { bitmap, catalog, entry, planInput, point, source } from '../../support/builders.js';

const held = source('a', { heldBy: { id: 'move', type: 'mirror' } });
const temporary = source('b', { temporary: true });
const known = (...disks: (typeof held)[]) => disks.map((disk) => ({ id: disk.device ?? '', source: disk }));

describe('a disk that cannot be copied', () => {
  it('says why and what to do', () => {
    expect(obstacleOf(source('a'))).toBeNull();
    expect(obstacleOf(held)).toMatchObject({
      why: expect.stringMatching(/mirror, id move/) as string,
      todo: expect.stringMatching(/job-cancel id=move/) as string,
    });
    const byLibvirt = source('a', { heldBy: { type: 'Block Copy', virsh: 'virsh blockjob vm vda' } });
    expect(obstacleOf(byLibvirt)).toMatchObject({
      why: expect.stringMatching(/\(Block Copy\), and libvirt/) as string,
      todo: expect.stringMatching(/virsh blockjob vm vda --abort.*--pivot/) as string,
    });
    expect(obstacleOf(temporary)?.why).toMatch(/-snapshot/);
    expect(obstacleOf(source('a', { unreadable: { why: 'gone', todo: 'mount it' } }))?.why).toBe('gone');
  });

  it('refuses the run, with every such disk and what to do about each', () => {
    const choice = { chosen: known(held, temporary, source('c')), leftOut: [] };
    expect(() => setAside(choice, false)).toThrow(
      expect.objectContaining({
        code: 'unsafe',
        message: expect.stringMatching(/^2 disks cannot be copied: a: .*mirror.*; b: .*-snapshot/) as string,
        hint: expect.stringMatching(/Nothing was changed\. a: .*b: .*--skip-failed-disks/) as string,
      }),
    );
  });

  it('is left out where that is asked for, unless no disk is left', () => {
    const done = setAside({ chosen: known(held, source('c')), leftOut: [] }, true);
    expect(done.chosen.map(({ id }) => id)).toEqual(['c']);
    expect(done.leftOut).toMatchObject([{ name: 'a', kind: 'failed' }]);
    expect(() => setAside({ chosen: known(held, temporary), leftOut: [] }, true)).toThrow(/^2 disks cannot be copied/);
  });

  it('does not end the chain of the others, and is said each time', () => {
    const [a, c] = [entry('a', 'FULL-1.qcow2'), entry('c', 'FULL-1.qcow2')];
    const c2 = { ...entry('c', 'INC-2.qcow2', { parent: c.file }) };
    const lacks = [{ disk: 'a', reason: 'held', kind: 'failed' as const }];
    const before = catalog([point(0, [a, c]), point(1, [c2], { lacks })]);
    const sources = [held, source('c', { bitmaps: [bitmap(c2.bitmap?.name ?? '')] })];
    const input = planInput('auto', sources, before);
    const plan = planBackup({ ...input, request: { ...input.request, skipFailed: true } });
    expect(plan).toMatchObject({ chain: 'c1', number: 2, removed: [], disks: [{ disk: 'c', level: 'inc' }] });
    expect(plan.warnings).toEqual([expect.stringMatching(/^a is not in the backup: .*mirror.* Wait until/)]);
    const free = source('a', { bitmaps: [bitmap(a.bitmap?.name ?? '')] });
    expect(planBackup(planInput('auto', [free], before)).disks).toMatchObject([{ level: 'inc', parent: a }]);
  });
});

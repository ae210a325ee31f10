import { describe, expect, it } from 'vitest';
import { copiesFailed, sparesOthers } from '../../../src/core/failed-copies.js';
import { planBackup, withoutFailed } from '../../../src/core/plan.js';
import { bitmap, catalog, entry, planInput, point, source } from '../../support/builders.js';

const [a, b] = [entry('a', 'FULL-1.qcow2'), entry('b', 'FULL-1.qcow2')];
const tracked = (disk: string) => source(disk, { bitmaps: [bitmap(entry(disk, 'FULL-1.qcow2').bitmap?.name ?? '')] });
const failed = (...disks: string[]) => disks.map((disk) => ({ disk, why: 'Input/output error' }));

describe('a plan without disks whose copies have failed', () => {
  it('goes on with its chain, as incremental as what is left, and records and says what it lacks', () => {
    const input = planInput('auto', [tracked('a'), source('b')], catalog([point(0, [a, b])]));
    const plan = planBackup(input);
    expect(plan).toMatchObject({ chain: 'c1', number: 1, level: 'inc' });
    const left = withoutFailed(plan, failed('a'), input);
    expect(left).toMatchObject({ chain: 'c1', number: 1, level: 'full', disks: [plan.disks[1]] });
    expect(left.leftOut).toEqual([{ name: 'a', reason: 'its copy failed: Input/output error', kind: 'failed' }]);
    expect(left.warnings).toEqual([
      ...plan.warnings,
      expect.stringMatching(/^a is not in the backup: its copy failed: Input\/output error\. No change/),
    ]);
  });

  it('begins no chain where a disk that failed could go on in the newest', () => {
    const input = planInput('auto', [source('a'), source('b')], catalog([point(0, [a, b]), point(1, [])]));
    const plan = planBackup(input);
    expect(plan).toMatchObject({ chain: 'abcdefabcdef', number: 0 });
    expect(withoutFailed(plan, failed('b'), input)).toMatchObject({ chain: 'c1', number: 2, level: 'full' });
  });

  it('begins one all the same where that was asked for, where the disk is new, or where there is none', () => {
    const anew = { chain: 'abcdefabcdef', number: 0 };
    for (const input of [
      planInput('full', [tracked('a'), tracked('b')], catalog([point(0, [a, b])])),
      planInput('auto', [source('a'), source('b')], catalog([point(0, [a])])),
      planInput('auto', [source('a'), source('b')], undefined),
    ]) {
      expect(withoutFailed(planBackup(input), failed('b'), input)).toMatchObject(anew);
    }
    const copy = planInput('copy', [tracked('a'), tracked('b')], catalog([point(0, [a, b])]));
    expect(withoutFailed(planBackup(copy), failed('b'), copy)).toMatchObject({ chain: null, number: 0, level: 'copy' });
  });
});

describe('copies that fail', () => {
  it('are of one disk, unless the target is full', () => {
    const words = (whys: readonly string[]) => whys.map((why) => ({ why }));
    expect(words(['Input/output error', 'Operation canceled', 'Permission denied']).every(sparesOthers)).toBe(true);
    const full = [
      'error: No space left on device',
      'no space left on device',
      'Disk quota exceeded',
      'failed to write: ENOSPC (writing to file failed)',
    ];
    expect(words(full).some(sparesOthers)).toBe(false);
    expect(sparesOthers({ why: 'Input/output error', harmsGuest: true })).toBe(false);
  });

  it('are all named, with the way to a point of the others where there is one', () => {
    const error = copiesFailed(failed('a', 'b'), 3);
    expect(error.message).toBe('the backup of a failed: Input/output error; that of b failed: Input/output error');
    expect(error.hint).toContain('--skip-failed-disks');
    expect(copiesFailed(failed('a', 'b'), 2).hint).not.toContain('--skip-failed-disks');
    const target = copiesFailed([{ disk: 'a', why: 'File too large', harmsGuest: true }], 2).hint;
    expect(target).toContain('With --fleece always --skip-failed-disks seals');
    expect(copiesFailed([{ disk: 'a', why: 'No space left on device' }], 2).hint).not.toContain('--skip');
  });
});

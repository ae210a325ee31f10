import { describe, expect, it } from 'vitest';
import { judgeBitmap, targetIdOf } from '../../../src/core/stale-bitmaps.js';
import { catalog, entry, point, TARGET_ID } from '../../support/builders.js';

const full = entry('a', 'FULL-1.qcow2');
const old = entry('a', 'INC-2.qcow2', { parent: 'FULL-1.qcow2' });
const newest = entry('a', 'INC-3.qcow2', { parent: 'INC-2.qcow2' });
const staleOf = [catalog([point(0, [full]), point(1, [old]), point(2, [newest])])];
const removes = (name: string, uuid: string | null, stale: typeof staleOf | null): boolean =>
  judgeBitmap(name, { uuid, staleOf: stale }).remove;

describe('cleanup', () => {
  it('never removes what is not ours', () => {
    expect(removes('libvirt-1', null, null)).toBe(false);
    expect(removes('backup-qmpbackup-x', null, null)).toBe(false);
  });

  it('removes all of ours, those of the Python tool too, or those that hold an id', () => {
    expect(removes('qmpbackup-ide0-hd0-a1b2', null, null)).toBe(true);
    expect(removes('qmpbackup-ide0-hd0-a1b2', 'a1b2', null)).toBe(true);
    expect(removes('qmpbackup-ide0-hd0-a1b2', 'ffff', null)).toBe(false);
  });

  it('with --stale keeps what the newest file and the newest FULL need, and what belongs to other targets', () => {
    expect(removes(newest.bitmap!.name, null, staleOf)).toBe(false);
    expect(removes(full.bitmap!.name, null, staleOf)).toBe(false);
    expect(removes(old.bitmap!.name, null, staleOf)).toBe(true);
    expect(removes(`qmpbackup-${TARGET_ID}-a-of-a-dead-run`, null, staleOf)).toBe(true);
    expect(removes('qmpbackup-ffffffffffffffff-a-x', null, staleOf)).toBe(false);
  });

  it('tells whose chain it breaks', () => {
    expect(judgeBitmap(newest.bitmap!.name, { uuid: null, staleOf: null })).toMatchObject({ needsFull: true });
    expect(targetIdOf(newest.bitmap!.name)).toBe(TARGET_ID);
    expect(targetIdOf('qmpbackup-ide0-hd0-a1b2')).toBeNull();
  });
});

import { describe, expect, it } from 'vitest';
import { parseJobInfo } from '../../../src/libvirt/job-info.js';
import { whyNotWhole } from '../../../src/libvirt/push-end.js';

/** As `domjobinfo --completed --keep-completed --rawstats` of libvirt 9.0 says it. */
const last = (type: number, operation: number, elapsed: number, rest: string) =>
  parseJobInfo(`Job type: ${type}\n\noperation: ${operation}\ntime_elapsed: ${elapsed}\ndisk_total: 64\n${rest}\n`);

describe('whyNotWhole', () => {
  it('takes a push that ended well, also one that ended before it was seen', () => {
    expect(whyNotWhole(last(3, 9, 332, 'success: 1'), { seenForMs: 310.4 })).toBeNull();
    expect(whyNotWhole(last(3, 9, 12, 'success: 1'), { seenForMs: 0 })).toBeNull();
  });

  it('tells in words how it failed', () => {
    const full = last(4, 9, 332, 'success: 0\nerrmsg: No space left on device');
    expect(whyNotWhole(full, { seenForMs: 300 })).toBe('No space left on device');
    const aborted = last(5, 9, 1154, 'success: 0\nerrmsg: Operation canceled');
    expect(whyNotWhole(aborted, { seenForMs: 300 })).toBe('somebody ended its job');
    expect(whyNotWhole(last(4, 9, 332, 'success: 0'), { seenForMs: 300 })).toBe('its job ended as failed');
    expect(whyNotWhole(last(3, 9, 332, 'success: 0'), { seenForMs: 300 })).toBe('its job ended as failed');
  });

  it('never takes the end of another job for that of ours', () => {
    const another = /another one has ended after it/;
    expect(whyNotWhole(last(3, 9, 120, 'success: 1'), { seenForMs: 130 })).toMatch(another);
    expect(whyNotWhole(last(3, 8, 5000, 'success: 1'), { seenForMs: 130 })).toMatch(another);
    expect(whyNotWhole(parseJobInfo('Job type: 0\n'), { seenForMs: 130 })).toMatch(another);
    expect(whyNotWhole(null, { seenForMs: 0 })).toMatch(/no longer knows/);
  });
});

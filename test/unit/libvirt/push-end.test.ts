import { describe, expect, it } from 'vitest';
import { parseJobInfo } from '../../../src/libvirt/job-info.js';
import { whyNotWhole } from '../../../src/libvirt/push-end.js';

const MiB = 1024 * 1024;

/** As `domjobinfo --completed --keep-completed --rawstats` of libvirt 9.0 says it. */
const last = (type: number, elapsed: number, rest = 'success: 1', operation = 9, bytes = 68 * MiB) =>
  parseJobInfo(
    `Job type: ${type}\n\noperation: ${operation}\ntime_elapsed: ${elapsed}\n` +
      `disk_total: ${bytes}\ndisk_processed: ${bytes}\n${rest}\n`,
  );
const images = [
  { held: 64 * MiB, least: 60 * MiB },
  { held: 4 * MiB, least: 4 * MiB },
];
const seen = (seenForMs: number) => ({ seenForMs, images });

describe('whyNotWhole', () => {
  it('takes a push that ended well, also one that ended before it was seen', () => {
    expect(whyNotWhole(last(3, 332), seen(310.4))).toBeNull();
    expect(whyNotWhole(last(3, 12), seen(0))).toBeNull();
    // It says nothing of bytes where there were none.
    const nothing = parseJobInfo('Job type: 3\noperation: 9\ntime_elapsed: 12\nsuccess: 1\n');
    expect(whyNotWhole(nothing, { seenForMs: 0, images: [{ held: 0, least: 0 }] })).toBeNull();
    expect(whyNotWhole(nothing, seen(0))).not.toBeNull();
  });

  it('takes a last cluster that is a part of one', () => {
    const odd = [{ held: 68 * MiB - 4096, least: 68 * MiB }];
    expect(whyNotWhole(last(3, 332), { seenForMs: 300, images: odd })).toBeNull();
  });

  it('tells in words how it failed, whatever the images hold', () => {
    const torn = { seenForMs: 300, images: [{ held: MiB, least: 68 * MiB }] };
    expect(whyNotWhole(last(4, 332, 'success: 0\nerrmsg: No space left on device'), torn)).toBe(
      'No space left on device',
    );
    expect(whyNotWhole(last(5, 1154, 'success: 0\nerrmsg: Operation canceled'), torn)).toBe('somebody ended its job');
    expect(whyNotWhole(last(4, 332, 'success: 0'), torn)).toBe('its job ended as failed');
    expect(whyNotWhole(last(3, 332, 'success: 0'), torn)).toBe('its job ended as failed');
  });

  it('never takes the end of another job for that of ours', () => {
    const another = /another one has ended after it/;
    expect(whyNotWhole(last(3, 120), seen(130))).toMatch(another);
    expect(whyNotWhole(last(3, 5000, 'success: 1', 8), seen(130))).toMatch(another);
    expect(whyNotWhole(parseJobInfo('Job type: 0\n'), seen(130))).toMatch(another);
    expect(whyNotWhole(null, seen(0))).toMatch(/no longer knows/);
  });

  it('nor one that copied something else, although it ran for as long', () => {
    const another = /another one has ended after it/;
    expect(whyNotWhole(last(3, 332, 'success: 1', 9, 64 * MiB), seen(0))).toMatch(another);
    // A full one that was ended by somebody, and a full one of the same disks after it.
    const tornFull = { seenForMs: 0, images: [{ held: 20 * MiB, least: 68 * MiB }] };
    expect(whyNotWhole(last(3, 332), tornFull)).toMatch(another);
    // Nothing was copied, and another that had nothing to copy.
    const nothing = { seenForMs: 0, images: [{ held: 0, least: 2 * MiB }] };
    expect(whyNotWhole(last(3, 332, 'success: 1', 9, 0), nothing)).toMatch(another);
  });
});

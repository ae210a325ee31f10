import { describe, expect, it } from 'vitest';
import { type ImageState, type OverlayRecord, whyNotStill } from '../../../src/core/overlay-record.js';

const NOON = '1795953600000000001';
const base: ImageState = { image: '/i/base', file: { bytes: '4096', modified: NOON } };
const device: ImageState = { image: '/dev/vg/a', file: null };
const record = (below: readonly ImageState[], changing = false): OverlayRecord => ({
  overlay: '/o/a',
  below,
  changing,
});
const seenWith = (file: Partial<NonNullable<ImageState['file']>>, image = '/i/base'): ImageState => ({
  image,
  file: { bytes: '4096', modified: NOON, ...file },
});

describe('whyNotStill', () => {
  it('is silent where each image has its length and its time, whatever its path, and of a device', () => {
    expect(whyNotStill(record([base]), [base])).toBeNull();
    expect(whyNotStill(record([base]), [{ ...base, image: '/moved/base' }])).toBeNull();
    expect(whyNotStill(record([base, device]), [base, device])).toBeNull();
  });

  it('tells of the image that is another, by one nanosecond or one byte', () => {
    const later = seenWith({ modified: '1795953600000000002' });
    expect(whyNotStill(record([base]), [later])).toMatch(/^\/i\/base is not as it was: something else wrote to it/);
    expect(whyNotStill(record([base]), [seenWith({ bytes: '8192' })])).toMatch(/it has 8192 bytes, and had 4096/);
    expect(whyNotStill(record([device, base]), [device, later])).toMatch(/^\/i\/base /);
    expect(whyNotStill(record([base]), [device])).toMatch(/^\/dev\/vg\/a is not as it was: another image/);
  });

  it('tells where there are more or fewer, or nothing was recorded', () => {
    expect(whyNotStill(record([base]), [base, device])).toMatch(/^\/dev\/vg\/a is not as it was: another image/);
    expect(whyNotStill(record([base, device]), [base])).toMatch(/fewer images/);
    expect(whyNotStill(undefined, [base])).toMatch(/^nothing tells/);
  });

  it('takes what differs for ours while a change of ours is under way', () => {
    expect(whyNotStill(record([base], true), [seenWith({ bytes: '1' })])).toBeNull();
  });
});

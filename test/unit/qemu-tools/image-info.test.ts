import { describe, expect, it } from 'vitest';
import { parseCheckReport, parseImageInfo, parseMap } from '../../../src/qemu-tools/image-info.js';

describe('answers of qemu-img', () => {
  it('of info', () => {
    const text = JSON.stringify({
      'virtual-size': 1048576,
      filename: 'INC-1.qcow2',
      format: 'qcow2',
      'actual-size': 200704,
      'backing-filename': 'FULL-0.qcow2',
    });
    expect(parseImageInfo(text)).toMatchObject({
      format: 'qcow2',
      virtualSize: 1048576,
      allocated: 200704,
      backingFile: 'FULL-0.qcow2',
    });
    expect(parseImageInfo('{"format":"raw"}').backingFile).toBeNull();
  });

  it('of check, which leaves out what it did not find', () => {
    expect(parseCheckReport('{"check-errors":0,"format":"qcow2"}')).toEqual({
      corruptions: 0,
      leaks: 0,
      checkErrors: 0,
      leaksFixed: 0,
      imageEnd: null,
    });
    const found = '{"image-end-offset":5,"check-errors":1,"corruptions":2,"leaks":3,"leaks-fixed":4}';
    expect(parseCheckReport(found)).toEqual({
      corruptions: 2,
      leaks: 3,
      checkErrors: 1,
      leaksFixed: 4,
      imageEnd: 5,
    });
  });

  it('of map', () => {
    const text = '[{"start":0,"length":65536,"depth":1,"present":true,"zero":false,"data":true,"offset":327680}]';
    expect(parseMap(text)).toEqual([{ start: 0, length: 65536, depth: 1, present: true, zero: false, data: true }]);
  });

  it.each(['', 'qemu-img: oops', '[]', 'null', '{}'])('of unknown shape are errors: %j', (text) => {
    expect(() => parseCheckReport(text)).toThrow(/unknown shape/);
  });
});

import { describe, expect, it } from 'vitest';
import { emptyQcow2 } from '../../../src/core/empty-qcow2.js';
import { parseQcow2Header, QCOW2_HEADER_BYTES } from '../../../src/core/qcow2-header.js';
import { relinkHeader } from '../../../src/core/relink-header.js';
import { MiB } from '../../support/builders.js';

function startOf(backing: string | undefined): Uint8Array {
  const start = new Uint8Array(QCOW2_HEADER_BYTES);
  for (const { offset, bytes } of emptyQcow2({ size: MiB, backing }).parts) {
    if (offset < start.length) start.set(bytes, offset);
  }
  return start;
}

describe('relinkHeader', () => {
  it.each(['FULL-1480542701.qcow2', 'INC-1.qcow2', 'INC-148054270100.qcow2'])(
    'makes of a header what it is when it is made with the link %s',
    (name) => {
      const start = startOf('INC-1480542701.qcow2');
      const patch = relinkHeader(start, name);
      expect(patch!.bytes.length).toBeLessThanOrEqual(4096);
      start.set(patch!.bytes);
      expect(Buffer.from(start).equals(startOf(name))).toBe(true);
      expect(parseQcow2Header(start)).toMatchObject({ backingFile: name, backingFormat: 'qcow2' });
    },
  );

  it('is not done where there is no room, nothing to replace, or more than a small write', () => {
    expect(relinkHeader(startOf(undefined), 'x')).toBeNull();
    const start = startOf('a.qcow2');
    const end = startOf('a.qcow2').findLastIndex((byte) => byte !== 0) + 1;
    start[end + 1] = 1;
    expect(relinkHeader(start, 'a.qcow2')).not.toBeNull();
    expect(relinkHeader(start, 'ab.qcow2')).not.toBeNull();
    expect(relinkHeader(start, 'abc.qcow2')).toBeNull();
    expect(relinkHeader(startOf('a.qcow2'), 'x'.repeat(4096))).toBeNull();
  });
});

import { expect, it } from 'vitest';
import { fileSystemOf } from '../../../src/core/file-system-type.js';

it('knows a file system by its first bytes', () => {
  const start = (at: number, bytes: string): Uint8Array => {
    const all = Buffer.alloc(0x10050);
    all.write(bytes, at, 'latin1');
    return all;
  };
  expect(fileSystemOf(start(0x438, '\x53\xef')).type).toBe('ext');
  const dirty = start(0x438, '\x53\xef');
  dirty[0x460] = 0xc6;
  expect(fileSystemOf(dirty)).toEqual({ type: 'ext', journal: true });
  expect(fileSystemOf(start(0x10040, '_BHRfS_M')).type).toBe('btrfs');
  expect(fileSystemOf(start(512, 'LABELONE')).type).toBe('lvm');
  expect(fileSystemOf(start(0, 'XFSB')).type).toBe('xfs');
  expect(fileSystemOf(new Uint8Array(10)).type).toBe('unknown');
});

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { folderName } from '../../../src/core/names.js';

const bytesOf = (text: string): number => Buffer.byteLength(text);

describe('the folder of a VM', () => {
  it.each(['web', 'サーバ', '計算機', 'Größe', 'e\u0301tage', '\u00e9tage', 'my vm', 'a_b', 'v1.2', '🐧', 'a:b=c@d+e'])(
    'has its name: %s',
    (name) => {
      expect(folderName(name)).toBe(name);
    },
  );

  it.each([
    ['a/b', 'a_b-'],
    ['a\\b', 'a_b-'],
    ['..', '__-'],
    ['.', '_-'],
    ['', '_-'],
    ['-rf', '_rf-'],
    ['web.', 'web_-'],
    ['a\0b\nc', 'a_b_c-'],
    ['a\u202eb', 'a_b-'],
    ['a\u00a0b', 'a_b-'],
  ])('replaces what is unsafe in %j, and says that it did', (name, beginning) => {
    expect(folderName(name)).toMatch(new RegExp(`^${beginning.replaceAll('.', '\\.')}[0-9a-f]{8}$`));
  });

  it('tells names apart that differ only in unsafe or in their last letters', () => {
    const alike = ['a/b', 'a_b', 'a\\b', 'a?b', 'a\0b', ...['x', 'y', 'z'].map((end) => 'サ'.repeat(100) + end)];
    expect(new Set(alike.map((name) => folderName(name))).size).toBe(alike.length);
  });

  it('fits, and cuts no letter in the middle', () => {
    expect(bytesOf(folderName('サ'.repeat(85)))).toBe(255);
    const cut = folderName('サ'.repeat(86));
    expect(cut).toMatch(/^サ{82}-[0-9a-f]{8}$/);
    expect(bytesOf(folderName('🐧'.repeat(100), 100))).toBeLessThanOrEqual(100);
  });

  it('is one plain component, whatever the VM is called', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 400 }), (name) => {
        const folder = folderName(name);
        expect(folder).not.toMatch(/[/\0]|^\.{0,2}$/);
        expect(bytesOf(folder)).toBeLessThanOrEqual(255);
      }),
    );
  });
});

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { LibvirtAnswerError } from '../../../src/libvirt/errors.js';
import { attribute, escapeXml, find, findAll, parseXml, textAt } from '../../../src/libvirt/xml.js';

describe('parseXml', () => {
  it('keeps values as text, prefixes of namespaces, and the order of elements', () => {
    const root = parseXml(
      `<?xml version='1.0'?>\n<!-- note --><d a='007'><n>1.50</n><b/><n> x </n>` +
        `<qemu:c xmlns:qemu='http://q'><qemu:arg value='-x &amp; y'/></qemu:c><m><![CDATA[a<b]]></m></d>`,
      'd',
    );
    expect(attribute(root, 'a')).toBe('007');
    expect(findAll(root, 'n').map(({ text }) => text)).toEqual(['1.50', ' x ']);
    expect(textAt(root, 'b')).toBeNull();
    expect(textAt(root, 'm')).toBe('a<b');
    expect(attribute(find(root, 'qemu:c', 'qemu:arg'), 'value')).toBe('-x & y');
    expect(find(root, 'c')).toBeUndefined();
  });

  it.each(['', 'error: nothing', '<d>', '<d><n></d>', '<e/>', '<d a=1/>'])('refuses %j', (text) => {
    expect(() => parseXml(text, 'd')).toThrow(LibvirtAnswerError);
  });

  it('reads back whatever was escaped, in text and in attributes', () => {
    const anyText = fc
      .string({ unit: 'grapheme' })
      .filter((text) => !/[^\t\n\r\x20-\u{10ffff}]|[\ufffe\uffff]/u.test(text));
    fc.assert(
      fc.property(anyText, (text) => {
        const root = parseXml(`<d a='${escapeXml(text)}'><n>${escapeXml(text)}</n></d>`, 'd');
        expect(attribute(root, 'a')).toBe(text);
        expect(find(root, 'n')?.text).toBe(text);
      }),
    );
  });
});

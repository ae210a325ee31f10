import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  append,
  editAt,
  element,
  removeChildren,
  withAttributes,
  withText,
  writeXml,
} from '../../../src/libvirt/xml-edit.js';
import { parseXml } from '../../../src/libvirt/xml.js';

const TEXT = `<d a='1' b='x &amp; &lt;y&gt; &apos;z&apos; &quot;q&quot;'>
  <n>one &lt;two&gt; &amp; three</n>
  <empty/>
  <q:c xmlns:q='http://q/1.0'>
    <q:arg value='-x&#10;second'/>
  </q:c>
  <mixed>before<b/>between<b/>after</mixed>
</d>
`;

const parsed = (text = TEXT) => parseXml(text, 'd');

describe('writeXml', () => {
  it('gives back what was read: order, prefixes, entities, text between elements', () => {
    expect(writeXml(parsed())).toBe(TEXT);
    expect(parseXml(writeXml(parsed()), 'd')).toEqual(parsed());
  });

  it('gives back any text, in elements and in attributes', () => {
    const anyText = fc
      .string({ unit: 'grapheme' })
      .filter((text) => !/[^\t\n\r\x20-\u{10ffff}]|[\ufffe\uffff]/u.test(text));
    fc.assert(
      fc.property(anyText, (text) => {
        const root = withText(withAttributes(parsed(), { a: text }), text);
        const again = parseXml(writeXml(root), 'd');
        expect(again.attributes.get('a')).toBe(text);
        expect(again.text).toBe(text);
      }),
    );
  });
});

describe('edits', () => {
  it('change only what they name', () => {
    const edited = editAt(parsed(), ['q:c', 'q:arg'], (arg) => withAttributes(arg, { value: 'new', more: "it's" }));
    expect(writeXml(edited)).toBe(TEXT.replace("value='-x&#10;second'", "value='new' more='it&apos;s'"));
    expect(writeXml(withAttributes(parsed(), { a: null }))).toBe(TEXT.replace(" a='1'", ''));
    expect(writeXml(editAt(parsed(), ['nothing', 'there'], () => null))).toBe(TEXT);
  });

  it('take a child out with its line, and add one on a line of its own', () => {
    expect(writeXml(removeChildren(parsed(), ['empty', 'q:c']))).toBe(
      TEXT.replace(/ {2}<empty\/>\n {2}<q:c[^]*<\/q:c>\n/, ''),
    );
    expect(writeXml(append(parsed(), [element('new', { x: 'y' }, 'z')]))).toBe(
      TEXT.replace('</mixed>\n', "</mixed>\n  <new x='y'>z</new>\n"),
    );
    expect(writeXml(append(parsed('<d/>'), [element('new', {})]))).toBe('<d><new/></d>\n');
  });
});

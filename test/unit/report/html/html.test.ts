import fc from 'fast-check';
import { expect, it } from 'vitest';
import { html } from '../../../../src/report/html/html.js';

it('puts text in as text, whatever it is', () => {
  expect(html`<p title="${`"'><&`}">${'<b>'}</p>`.text).toBe('<p title="&#34;&#39;&#62;&#60;&#38;">&#60;b&#62;</p>');
  expect(html`${html`<i>${'a'}</i>`}${[1, html`<b></b>`, '<', null, false]}`.text).toBe('<i>a</i>1<b></b>&#60;');
  // What turns the text round, or cannot be seen.
  expect(html`${'a\u202eb\u0000c'}`.text).toBe('a?b?c');
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      expect(html`${text}`.text).toMatch(/^(?:[^<>"'&\x80-\u{10ffff}]|&#\d+;)*$/u);
    }),
  );
});

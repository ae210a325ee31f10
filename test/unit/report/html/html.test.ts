import fc from 'fast-check';
import { expect, it } from 'vitest';
import { html } from '../../../../src/report/html/html.js';

it('puts text in as text, whatever it is', () => {
  expect(html`<p title="${`"'><&`}">${'<b>'}</p>`.text).toBe('<p title="&quot;&#39;&gt;&lt;&amp;">&lt;b&gt;</p>');
  expect(html`${html`<i>${'a'}</i>`}${[1, html`<b></b>`, '<', null, false]}`.text).toBe('<i>a</i>1<b></b>&lt;');
  // What turns the text round, or cannot be seen.
  expect(html`${'a\u202eb\u0000c'}`.text).toBe('a?b?c');
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      expect(html`${text}`.text).not.toMatch(/[<>"']|&(?!(?:amp|lt|gt|quot|#39);)/);
    }),
  );
});

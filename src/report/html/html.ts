import { printableLines } from '../../core/printable.js';

/**
 * Text that is HTML already, in ASCII: that takes half as much memory, and is UTF-8 as it is. Only `html` makes it, and that escapes all else:
 * no name, note or error of others becomes markup.
 */
export class Html {
  readonly text: string;

  private constructor(text: string) {
    this.text = text;
  }

  /** For `html`, and for text without anything of others in it. */
  static of(text: string): Html {
    return new Html(text);
  }
}

export type HtmlPart = Html | string | number | null | false | readonly HtmlPart[];

/**
 * A template, of ASCII: what is put in is text, in elements and in quoted attributes alike. Null and false are nothing. Lines of the
 * template are not indented in the page.
 */
export function html(template: TemplateStringsArray, ...parts: readonly HtmlPart[]): Html {
  const words = withoutIndents(template);
  let text = words[0] ?? '';
  for (let at = 0; at < parts.length; at += 1) text += textOf(parts[at] ?? null) + (words[at + 1] ?? '');
  return Html.of(text);
}

/** By template, each of which is one object however often it is filled. */
const shortened = new WeakMap<TemplateStringsArray, readonly string[]>();

/** They were a seventh of a page. */
function withoutIndents(template: TemplateStringsArray): readonly string[] {
  const known = shortened.get(template) ?? template.map((words) => words.replace(/\n +/g, '\n'));
  shortened.set(template, known);
  return known;
}

function textOf(part: HtmlPart): string {
  if (part instanceof Html) return part.text;
  if (typeof part === 'string') return escaped(part);
  if (typeof part === 'number') return String(part);
  if (part === null || part === false) return '';
  let text = '';
  for (const each of part) text += textOf(each);
  return text;
}

const PLAIN = /^[\w .,:;+/@=()\n-]*$/;

function escaped(text: string): string {
  return PLAIN.test(text) ? text : printableLines(text).replace(SPECIAL, reference);
}

const SPECIAL = /[&<>"']|[^\0-\x7f]/gu;

function reference(character: string): string {
  return `&#${character.codePointAt(0)};`;
}

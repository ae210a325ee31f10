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

/** A template, of ASCII: what is put in is text, in elements and in quoted attributes alike. Null and false are nothing. */
export function html(words: TemplateStringsArray, ...parts: readonly HtmlPart[]): Html {
  let text = words[0] ?? '';
  for (let at = 0; at < parts.length; at += 1) text += textOf(parts[at] ?? null) + (words[at + 1] ?? '');
  return Html.of(text);
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

import { formatBytes } from '../../core/bytes.js';
import { formatTime } from '../../host/local-time.js';
import { type Html, html } from './html.js';

/** Numbers as people read them, with what they are exactly. */
export function bytesData(bytes: number): Html {
  return html`<data value="${bytes}">${formatBytes(bytes)}</data>`;
}

/** Null is a dash. */
export function timeData(iso: string | null | undefined): Html {
  if (iso === null || iso === undefined) return DASH;
  return shownTime(iso).html;
}

/** A time that a page shows more than once. */
export interface ShownTime {
  /** In local time. */
  readonly text: string;
  readonly html: Html;
}

export function shownTime(iso: string): ShownTime {
  const text = formatTime(iso);
  return { text, html: html`<time datetime="${iso}">${text}</time>` };
}

export const DASH = html`<span class="none">&ndash;</span>`;

export function plural(count: number, one: string, many = `${one}s`): string {
  return `${count} ${count === 1 ? one : many}`;
}

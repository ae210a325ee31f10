import { createHash } from 'node:crypto';
import { packageVersion } from '../../host/package-version.js';
import { Html, html } from './html.js';
import { STYLE } from './style.js';

/**
 * By this a page is known as one of ours, whoever wrote the folder. It stands in the first bytes of each, before anything that others have
 * named.
 */
export const MARK =
  '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="generator" content="qmpbackup report">\n';

/** No script, nothing from elsewhere, and no style but ours: what a name might bring along is dead even where it were markup. */
const POLICY = [
  "default-src 'none'",
  `style-src 'sha256-${createHash('sha256').update(STYLE).digest('base64')}'`,
  'img-src data:',
  "base-uri 'none'",
  "form-action 'none'",
].join('; ');

export function page({ title, body }: { readonly title: string; readonly body: Html }): string {
  const head = html`<meta http-equiv="Content-Security-Policy" content="${POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>${title}</title>
<link rel="icon" href="data:,">
<style>${Html.of(STYLE)}</style>
</head>
<body>
${body}
<footer>Made by qmpbackup ${packageVersion()}. What is here was true at the time above; qmpbackup status tells what is true now.</footer>
</body>
</html>
`;
  return MARK + head.text;
}

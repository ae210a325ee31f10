/**
 * What others have named is shown by this rule alone: guests name files, catalogs and records come from anybody. Control
 * characters would end or move a line of a script or a terminal, and marks of direction would turn it round.
 */
export function printable(name: string): string {
  return name.replace(UNPRINTABLE, '?');
}

/** The same of a whole text, which has lines of its own. */
export function printableLines(text: string): string {
  return text.replace(UNPRINTABLE, (found) => (found === '\n' || found === '\t' ? found : '?'));
}

const UNPRINTABLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

/** JSON that a terminal shows as it is: the characters which JSON leaves to everybody are escaped, so that nothing is lost. */
export function printableJson(value: unknown, indent?: number): string {
  const escaped = (found: string): string =>
    [...Array(found.length).keys()].map((at) => `\\u${found.charCodeAt(at).toString(16).padStart(4, '0')}`).join('');
  return JSON.stringify(value, null, indent).replace(UNPRINTABLE, (found) => (found === '\n' ? found : escaped(found)));
}

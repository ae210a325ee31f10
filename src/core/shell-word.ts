/** A name as it has to be typed in a shell. */
export function asShellWord(text: string): string {
  return /^[\w.,:@%+=/-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

/** What a shell makes of a word that is typed, but for what it would put in: no variable, no command. A quote may still be open. */
export function fromShellWord(typed: string): string {
  return typed.replaceAll(
    /'([^']*)(?:'|$)|"((?:\\.|[^"\\])*)(?:"|$)|\\(.)/gs,
    (_, single?: string, double?: string, escaped?: string) =>
      single ?? double?.replaceAll(/\\(["\\$`])/g, '$1') ?? escaped ?? '',
  );
}

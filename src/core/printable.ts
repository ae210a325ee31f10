/** For a line of a script or of a terminal, which nothing in it shall end or move. */
export function printable(text: string): string {
  return text.replace(/\p{C}/gu, '?');
}

/** Names inside a sentence: all of them, or of very many the last ones, which are the newest. */
export function listNames(names: readonly string[]): string {
  if (names.length === 0) return 'none';
  const shown = names.slice(-MOST);
  const older = names.length - shown.length;
  return `${older > 0 ? `${older} older ones, ` : ''}${shown.join(', ')}`;
}

const MOST = 40;

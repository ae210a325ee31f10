/** `1 point`, `2 points` */
export function counted(number: number, word: string): string {
  return `${number} ${word}${number === 1 ? '' : 's'}`;
}

/** The word that agrees with so many: `1 cluster belongs`, `2 clusters belong`. */
export function agreeing(number: number, singular: string, plural: string): string {
  return number === 1 ? singular : plural;
}

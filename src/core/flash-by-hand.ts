/**
 * Which units of the firmware's flash are given among words for QEMU, by `-drive if=pflash`, `-pflash` or `-machine pflash0=NODE`; all
 * of them by `-bios`, beside which QEMU takes none.
 */
export function flashByHand(words: readonly string[]): (unit: number) => boolean {
  const units = new Set<number>();
  const next = (): number => [0, 1, 2, 3].find((unit) => !units.has(unit)) ?? 0;
  let hasRom = false;
  for (const [index, word] of words.entries()) {
    const value = words[index + 1] ?? '';
    const option = word.replace(/^--?/, '');
    if (option === word) continue;
    if (option === 'bios') hasRom = true;
    else if (option === 'pflash') units.add(next());
    else if (option === 'drive' && /(^|,)if=pflash(,|$)/.test(value)) {
      const told = /(?:^|,)(?:unit|index)=(\d+)/.exec(value)?.[1];
      units.add(told === undefined ? next() : Number(told));
    } else if (option === 'machine' || option === 'M') {
      for (const [, unit] of value.matchAll(/(?:^|,)pflash(\d)=/g)) units.add(Number(unit));
    }
  }
  return (unit) => hasRom || units.has(unit);
}

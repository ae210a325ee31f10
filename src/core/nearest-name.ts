/** Of `names` the one that was most likely meant; undefined where none is near. */
export function nearestName(given: string, names: readonly string[]): string | undefined {
  const inOrder = names
    .map((name) => ({ name, distance: distanceOf(given.toLowerCase(), name.toLowerCase()) }))
    .toSorted((a, b) => a.distance - b.distance);
  const [nearest] = inOrder;
  // A third of it may be wrong: more is another word.
  return nearest && nearest.distance <= Math.max(1, Math.floor(given.length / 3)) ? nearest.name : undefined;
}

/** How many letters have to be put in, taken out, changed or swapped with their neighbour to make `b` of `a`. */
function distanceOf(a: string, b: string): number {
  let before: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i += 1) {
    const row = [i];
    for (let j = 1; j <= b.length; j += 1) {
      const changed = (last[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      const steps = [(last[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1, changed, swapped ? (before[j - 2] ?? 0) + 1 : Infinity];
      row.push(Math.min(...steps));
    }
    [before, last] = [last, row];
  }
  return last[b.length] ?? 0;
}

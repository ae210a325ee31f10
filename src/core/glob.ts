/** A pattern for one name: `*` and `?` stand for any characters, and for one. */
export function globMatcher(pattern: string): (name: string) => boolean {
  const source = [...pattern].map((each) =>
    each === '*' ? '.*' : each === '?' ? '.' : each.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&'),
  );
  const expression = new RegExp(`^${source.join('')}$`, 'su');
  return (name) => expression.test(name);
}

/** Numbers as people read them. */

export { formatBytes } from '../../core/bytes.js';
export { formatDuration } from '../../core/duration-text.js';
export { formatTime } from '../../host/local-time.js';

/** Names one after the other; of more than can be read only the first, the last and their number. */
export function formatNames(names: readonly string[]): string {
  if (names.length <= 6) return names.join(', ');
  return `${names[0]} to ${names.at(-1)} (${names.length})`;
}

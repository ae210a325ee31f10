import { existsSync, readFileSync } from 'node:fs';
import { SourceMap, type SourceMapPayload } from 'node:module';
import { fileURLToPath } from 'node:url';

/** The places of a stack as places of the sources: the program that users run is one file, with a map beside it. */
export function sourceStack(stack: string): string {
  const maps = new Map<string, SourceMap | null>();
  return stack.replace(/(file:\/\/[^\s)]+\.js):(\d+):(\d+)/g, (place, url: string, line: string, column: string) => {
    let map = maps.get(url);
    if (map === undefined) maps.set(url, (map = mapOf(url)));
    const entry = map?.findEntry(Number(line) - 1, Number(column) - 1);
    if (!entry || !('originalSource' in entry)) return place;
    const source = entry.originalSource.replace(/^(\.\.\/)+/, '');
    return `${source}:${entry.originalLine + 1}:${entry.originalColumn + 1}`;
  });
}

/** Null where it is not there or damaged: an error is told all the same. */
function mapOf(url: string): SourceMap | null {
  const file = `${fileURLToPath(url)}.map`;
  try {
    return existsSync(file) ? new SourceMap(JSON.parse(readFileSync(file, 'utf8')) as SourceMapPayload) : null;
  } catch {
    return null;
  }
}

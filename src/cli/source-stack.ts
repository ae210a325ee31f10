import { existsSync, readFileSync } from 'node:fs';
import { SourceMap, type SourceMapPayload } from 'node:module';

/** The places of a stack as places of the sources: the program that users run is one file, with a map beside it. */
export function sourceStack(stack: string): string {
  const maps = new Map<string, SourceMap | null>();
  return stack.replace(/(\/[^\n:]+\.cjs):(\d+):(\d+)/g, (place, file: string, line: string, column: string) => {
    let map = maps.get(file);
    if (map === undefined) maps.set(file, (map = mapOf(file)));
    const entry = map?.findEntry(Number(line) - 1, Number(column) - 1);
    if (!entry || !('originalSource' in entry)) return place;
    const source = entry.originalSource.replace(/^(\.\.\/)+/, '');
    return `${source}:${entry.originalLine + 1}:${entry.originalColumn + 1}`;
  });
}

/** Null where it is not there or damaged: an error is told all the same. */
function mapOf(file: string): SourceMap | null {
  const map = `${file}.map`;
  try {
    return existsSync(map) ? new SourceMap(JSON.parse(readFileSync(map, 'utf8')) as SourceMapPayload) : null;
  } catch {
    return null;
  }
}

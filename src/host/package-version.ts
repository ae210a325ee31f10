import { readFileSync } from 'node:fs';

/** Version of this package. */
export function packageVersion(): string {
  const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}

/** Name and version as a catalog records them. */
export function toolName(): string {
  return `qmpbackup ${packageVersion()}`;
}

import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';

/** The root of the repository, from the sources as well as from the compiled scripts in .build. */
export function projectRoot(): string {
  let folder = import.meta.dirname;
  while (!existsSync(join(folder, 'package.json'))) {
    const parent = dirname(folder);
    if (parent === folder) throw new Error(`no package.json above ${import.meta.dirname}`);
    folder = parent;
  }
  return folder;
}

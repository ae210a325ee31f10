import { chmod, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterTest, labDir } from './scenario.js';

/** Makes lines of a shell, in `dir`, what this test and all that it starts find by that name. */
export async function firstInPath(program: string, dir: string, script: string): Promise<void> {
  await writeFile(join(dir, program), `#!/bin/bash\n${script}\n`);
  await chmod(join(dir, program), 0o755);
  const path = process.env['PATH'] ?? '';
  process.env['PATH'] = `${dir}:${path}`;
  afterTest(() => Promise.resolve((process.env['PATH'] = path)));
}

/** When `program` is called with the word `command` for the first time, `first` is run before it. */
export async function onceBefore(program: string, command: string, first: string): Promise<void> {
  const dir = await labDir();
  const once = `if [[ " $* " = *" ${command} "* ]] && mkdir ${dir}/once 2>/dev/null; then ${first}; fi >/dev/null`;
  await firstInPath(program, dir, `${once}\nPATH=\${PATH#${dir}:} exec ${program} "$@"`);
}

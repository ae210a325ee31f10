import { access, constants } from 'node:fs/promises';
import { delimiter, join } from 'node:path';

/** Those of `programs` that are in no folder of PATH. */
export async function missingPrograms(programs: readonly string[]): Promise<readonly string[]> {
  const folders = (process.env['PATH'] ?? '').split(delimiter);
  const found = await Promise.all(programs.map((program) => isIn(folders, program)));
  return programs.filter((_, index) => !found[index]);
}

async function isIn(folders: readonly string[], program: string): Promise<boolean> {
  const tries = folders.map((folder) =>
    access(join(folder, program), constants.X_OK).then(
      () => true,
      () => false,
    ),
  );
  return (await Promise.all(tries)).includes(true);
}

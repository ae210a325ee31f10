import { cp, mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { projectRoot, run } from '../lab/programs.js';

/** Known bugs to put into a copy of the sources: whether the torture finds them is the test of the torture. */
export interface KnownBug {
  readonly name: string;
  /** In `src`. */
  readonly file: string;
  /** Text that the file holds exactly once. */
  readonly text: string;
  readonly by: string;
}

export const KNOWN_BUGS: readonly KnownBug[] = [
  {
    name: 'clears the bitmap at the start',
    file: 'qemu/transaction.ts',
    text: "'bitmap-mode': 'never'",
    by: "'bitmap-mode': 'always'",
  },
  {
    name: 'seals before the jobs end',
    file: 'backends/qmp/follow-jobs.ts',
    text: 'const outcomes = await watchJobs(',
    by: 'const outcomes = plan.disks.map(({ job }) => ({ job, copied: 0, error: null })) ?? await watchJobs(',
  },
  {
    name: 'keys jobs by the first event',
    file: 'qemu/job-watch.ts',
    text: 'await somethingHappened(wakeUps, intervalMs, cancelled ? givenUp : signal);',
    by:
      'const first = await wakeUps.next({ timeoutMs: intervalMs }).catch(() => undefined);' +
      "if (first?.event === 'BLOCK_JOB_COMPLETED') return ids.map((job) => ({ job, copied: 0, error: null }));",
  },
  {
    name: 'reuses a bitmap name',
    file: 'core/names.ts',
    text: '`qmpbackup-${targetId}-${disk}-${random}`',
    by: '`qmpbackup-${targetId}-${disk}-0123456789ab`',
  },
  {
    name: 'takes the recorded node instead of the top one',
    file: 'core/plan.ts',
    text: '    disk: id,\n    source,\n',
    by:
      '    disk: id,\n' +
      '    source: { ...source, address: knownDisks(input.catalog).get(id)?.source.node ?? source.address },\n',
  },
];

/** Builds the program with the bug in `dir`; gives its `bin/qmpbackup.js`. Throws where the text is not there. */
export async function makeMutant(bug: KnownBug, dir: string): Promise<string> {
  const root = projectRoot();
  await mkdir(dir, { recursive: true });
  await Promise.all(
    ['bin', 'src', 'package.json'].map((name) => cp(join(root, name), join(dir, name), { recursive: true })),
  );
  await symlink(join(root, 'node_modules'), join(dir, 'node_modules'));
  const file = join(dir, 'src', bug.file);
  const parts = (await readFile(file, 'utf8')).split(bug.text);
  if (parts.length !== 2) throw new Error(`${bug.name}: its text is ${parts.length - 1} times in src/${bug.file}`);
  await writeFile(file, parts.join(bug.by));
  await run(process.execPath, [join(root, 'scripts', 'bundle.js')], { cwd: dir });
  return join(dir, 'bin', 'qmpbackup.js');
}

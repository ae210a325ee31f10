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
  {
    // Neither the merge nor what looks at it afterwards sees them.
    name: 'forgets zero clusters where it merges',
    file: 'qemu-tools/image-info.ts',
    text: 'present: extent.present === true,',
    by: 'present: extent.present === true && extent.zero !== true,',
  },
  {
    name: 'prunes what a kept point builds on',
    file: 'core/retention.ts',
    text: '  if (!consolidate) keepParents(history, reasons);\n  if (!allowRemoveAll)',
    by: '  if (!allowRemoveAll)',
  },
  {
    // What the comparison says comes too late.
    name: 'swaps a new FULL in before it is compared',
    file: 'consolidation/fill-full.ts',
    text: 'const same = await compare(view, own, { ...long, onProgress: half(1) });',
    by: 'compare(view, own, { ...long, onProgress: half(1) }).catch(() => false);\n    const same = true;',
  },
];

/** For the torture of domains. */
export const KNOWN_BUGS_OF_DOMAINS: readonly KnownBug[] = [
  {
    name: 'redefines checkpoints without validation',
    file: 'backends/libvirt/repair.ts',
    text: '{ name, creationTime, disks, without }, { validate: true }',
    by: '{ name, creationTime, disks, without }, { validate: false }',
  },
  {
    name: 'does not write the zeros of an increment',
    file: 'core/extents.ts',
    text: "    ...intersection(wanted, zero).map((span): Range => ({ ...span, kind: 'zero' })),\n",
    by: '',
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

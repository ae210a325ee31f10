import { cp, mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { projectRoot, run } from '../lab/programs.js';

/** Known bugs to put into a copy of the sources: whether the torture finds them is the test of the torture. */
export interface KnownBug {
  readonly name: string;
  readonly edits: readonly Edit[];
}

interface Edit {
  /** In `src`. */
  readonly file: string;
  /** Text that the file holds exactly once. */
  readonly text: string;
  readonly by: string;
}

export const KNOWN_BUGS: readonly KnownBug[] = [
  {
    name: 'clears the bitmap at the start',
    edits: [
      {
        file: 'qemu/transaction.ts',
        text: "'bitmap-mode': 'never'",
        by: "'bitmap-mode': 'always'",
      },
    ],
  },
  {
    name: 'seals before the jobs end',
    edits: [
      {
        file: 'backends/qmp/follow-jobs.ts',
        text: 'const outcomes = await watchJobs(',
        by: 'const outcomes = plan.disks.map(({ job }) => ({ job, copied: 0, error: null })) ?? await watchJobs(',
      },
    ],
  },
  {
    name: 'keys jobs by the first event',
    edits: [
      {
        file: 'qemu/job-watch.ts',
        text: 'await somethingHappened(wakeUps, intervalMs, cancelled ? givenUp : signal);',
        by:
          'const first = await wakeUps.next({ timeoutMs: intervalMs }).catch(() => undefined);' +
          "if (first?.event === 'BLOCK_JOB_COMPLETED') return ids.map((job) => ({ job, copied: 0, error: null }));",
      },
    ],
  },
  {
    name: 'reuses a bitmap name',
    edits: [
      {
        file: 'core/names.ts',
        text: '`qmpbackup-${targetId}-${disk}-${random}`',
        by: '`qmpbackup-${targetId}-${disk}-0123456789ab`',
      },
    ],
  },
  {
    name: 'takes the recorded node instead of the top one',
    edits: [
      {
        file: 'core/plan.ts',
        text: '    disk: id,\n    source,\n',
        by:
          '    disk: id,\n' +
          '    source: { ...source, address: knownDisks(input.catalog).get(id)?.source.node ?? source.address },\n',
      },
    ],
  },
  {
    // Neither the merge nor what looks at it afterwards sees them.
    name: 'forgets zero clusters where it merges',
    edits: [
      {
        file: 'qemu-tools/image-info.ts',
        text: 'present: extent.present === true,',
        by: 'present: extent.present === true && extent.zero !== true,',
      },
    ],
  },
  {
    name: 'prunes what a kept point builds on',
    edits: [
      {
        file: 'core/retention.ts',
        text: '  if (!consolidate) keepParents(history, reasons);\n  if (!allowRemoveAll)',
        by: '  if (!allowRemoveAll)',
      },
    ],
  },
  {
    // What the proof says comes too late.
    name: 'swaps a new FULL in before it is proved',
    edits: [
      {
        file: 'consolidation/move-full.ts',
        text: 'signal, onProgress: part(60, 100) })',
        by: "signal, onProgress: part(60, 100) }).catch(async () => (await import('../repository/digest.js')).digestByPieces(path, moved.pieces.method))",
      },
      {
        file: 'consolidation/fill-full.ts',
        text: 'const same = await compare(view, own, { ...long, onProgress: half(1) });',
        by: 'compare(view, own, { ...long, onProgress: half(1) }).catch(() => false);\n    const same = true;',
      },
    ],
  },
];

/** For the torture of domains. */
export const KNOWN_BUGS_OF_DOMAINS: readonly KnownBug[] = [
  {
    name: 'takes the bitmap of every checkpoint for whole',
    edits: [
      {
        file: 'backends/libvirt/session.ts',
        text: 'inconsistent: domain.active && changedBytes === null && unmeasured === undefined,',
        by: 'inconsistent: false,',
      },
    ],
  },
  {
    // It shows where libvirt cannot measure a checkpoint, and nothing else tells that a bitmap is broken: docs/libvirt-notes.md.
    name: 'redefines checkpoints without validation',
    edits: [{ file: 'libvirt/backup.ts', text: "...(validate ? ['--redefine-validate'] : [])", by: '' }],
  },
  {
    name: 'does not write the zeros of an increment',
    edits: [
      {
        file: 'core/extents.ts',
        text: "    ...intersection(wanted, zero).map((span): Range => ({ ...span, kind: 'zero' })),\n",
        by: '',
      },
    ],
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
  for (const { file, text, by } of bug.edits) {
    const path = join(dir, 'src', file);
    const parts = (await readFile(path, 'utf8')).split(text);
    if (parts.length !== 2) throw new Error(`${bug.name}: its text is ${parts.length - 1} times in src/${file}`);
    await writeFile(path, parts.join(by));
  }
  await run(process.execPath, [join(root, 'scripts', 'bundle.js')], { cwd: dir });
  return join(dir, 'bin', 'qmpbackup.js');
}

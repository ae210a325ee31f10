/** What a domain of libvirt and its backups go through in a random sequence. It has two disks, and two targets. */
import fc from 'fast-check';
import type { CrashPoint } from '../crash-point.js';
import { closeWrites, is, sectors, type Write, writes } from './steps.js';
import { upkeep, upkeepInWords, type UpkeepStep } from './upkeep-steps.js';

export type DomainFault =
  | { readonly kind: 'none' }
  /** SIGKILL of the tool at a step of its own, one of `KILLED`; a run may not come to it. */
  | { readonly kind: 'kill'; readonly at: number; readonly guards: 'act' | 'die' }
  /** The guest writes while its disks are pulled. */
  | { readonly kind: 'writes'; readonly writes: readonly Write[] };

/**
 * Of one disk: `copied` into an image without bitmaps; its bitmaps `removed` by qemu-img; or `put-back`, an image with the data and the
 * bitmaps of an earlier time, which the step before that found.
 */
export interface ImageChange {
  readonly disk: 0 | 1;
  readonly how: 'copied' | 'removed' | 'put-back';
}

export interface DomainRunStep {
  readonly kind: 'run';
  readonly target: 0 | 1;
  readonly level: 'full' | 'inc' | 'diff' | 'auto' | 'copy';
  /** A push, of a domain that runs. */
  readonly push: boolean;
  /** Of one that is off. */
  readonly startPaused: boolean;
  readonly verify: boolean;
  readonly compress: boolean;
  readonly exclude: 0 | 1 | null;
  readonly fault: DomainFault;
}

export type DomainStep =
  | { readonly kind: 'writes'; readonly writes: readonly Write[] }
  | DomainRunStep
  /** Ends one that runs, starts one that is off. */
  | { readonly kind: 'power' }
  /** SIGKILL of its QEMU, and a start. */
  | { readonly kind: 'power-cut' }
  /**
   * Ended, and started again or not. `killed`: its QEMU, which then stores no bitmap. `anew`: undefined and defined, by which libvirt
   * forgets its checkpoints; else it goes on telling of them, whatever became of the `image`.
   */
  | {
      readonly kind: 'while-off';
      readonly killed: boolean;
      readonly anew: boolean;
      readonly image: ImageChange | null;
      readonly start: boolean;
    }
  /** libvirtd ended and started, and the domain lives on; `forgets`: the files with its checkpoints are gone meanwhile. */
  | { readonly kind: 'libvirtd'; readonly killed: boolean; readonly forgets: boolean }
  /** An external snapshot of both disks. */
  | { readonly kind: 'snapshot' }
  /** Of all external snapshots, into the images that were there first. */
  | { readonly kind: 'commit' }
  | { readonly kind: 'grow'; readonly disk: 0 | 1; readonly bytes: number }
  /** Of somebody else. */
  | { readonly kind: 'checkpoint' }
  | { readonly kind: 'cleanup' }
  | { readonly kind: 'recover'; readonly target: 0 | 1 }
  | UpkeepStep;

export const KILLED: readonly CrashPoint[] = [
  { when: 'after', call: 'rename', matches: /run\.json$/ },
  { when: 'after', call: 'open', matches: /\.partial/ },
  { when: 'before', call: 'spawn', matches: / backup-begin/ },
  { when: 'after', call: 'spawn', matches: / backup-begin/ },
  { when: 'before', call: 'spawn', matches: /domjobabort/ },
  { when: 'after', call: 'spawn', matches: /domjobabort/ },
  { when: 'before', call: 'rename', matches: /(?:FULL|INC|DIFF|COPY)-\d+\.qcow2$/ },
  { when: 'before', call: 'rename', matches: /catalog\.json$/ },
  { when: 'after', call: 'rename', matches: /catalog\.json$/ },
  { when: 'after', call: 'spawn', matches: /checkpoint-delete/ },
  { when: 'after', call: 'spawn', matches: / start .*--paused/ },
  { when: 'before', call: 'spawn', matches: / destroy .*--graceful/ },
];

const side = fc.constantFrom<0 | 1>(0, 1);
const seldom = fc.constantFrom(true, false, false, false, false);

const fault: fc.Arbitrary<DomainFault> = fc.oneof(
  { weight: 5, arbitrary: fc.record({ kind: is('none') }) },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: is('kill'),
      at: fc.nat({ max: KILLED.length - 1 }),
      guards: fc.constantFrom<'act' | 'die'>('act', 'die'),
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: is('writes'), writes }) },
);

const run: fc.Arbitrary<DomainRunStep> = fc.record({
  kind: is('run'),
  target: fc.constantFrom<0 | 1>(0, 0, 0, 1),
  level: fc.constantFrom<DomainRunStep['level']>('auto', 'auto', 'auto', 'inc', 'inc', 'diff', 'copy', 'full'),
  push: fc.constantFrom(true, false, false),
  startPaused: fc.boolean(),
  verify: seldom,
  compress: seldom,
  exclude: fc.oneof({ weight: 6, arbitrary: fc.constant(null) }, { weight: 1, arbitrary: side }),
  fault,
});

const imageChange = fc.record({
  disk: side,
  how: fc.constantFrom<ImageChange['how']>('copied', 'removed', 'put-back'),
});

const whileOff = fc.record({
  ...{ kind: is('while-off'), killed: seldom, anew: fc.boolean(), start: fc.boolean() },
  image: fc.option(imageChange, { freq: 1 }),
});

const libvirtd = fc.record({ kind: is('libvirtd'), killed: fc.boolean(), forgets: fc.boolean() });

const step: fc.Arbitrary<DomainStep> = fc.oneof(
  { weight: 2, arbitrary: fc.record({ kind: is('writes'), writes }) },
  { weight: 5, arbitrary: fc.record({ kind: is('writes'), writes: closeWrites }) },
  { weight: 14, arbitrary: run },
  { weight: 2, arbitrary: fc.record({ kind: is('power') }) },
  { weight: 1, arbitrary: fc.record({ kind: is('power-cut') }) },
  { weight: 3, arbitrary: whileOff },
  { weight: 1, arbitrary: libvirtd },
  { weight: 1, arbitrary: fc.record({ kind: is('snapshot') }) },
  { weight: 1, arbitrary: fc.record({ kind: is('commit') }) },
  { weight: 1, arbitrary: fc.record({ kind: is('grow'), disk: side, bytes: sectors(1, 16_384) }) },
  { weight: 1, arbitrary: fc.record({ kind: is('checkpoint') }) },
  { weight: 1, arbitrary: fc.record({ kind: is('cleanup') }) },
  { weight: 1, arbitrary: fc.record({ kind: is('recover'), target: side }) },
  { weight: 5, arbitrary: upkeep },
);

/**
 * What single steps seldom come to: libvirt cannot measure a checkpoint, since one of its disks was grown above a snapshot, and the
 * other one's bitmap is gone, or libvirt has forgotten the checkpoint, or both.
 */
const unmeasured: fc.Arbitrary<readonly DomainStep[]> = fc
  .record({ grown: side, bytes: sectors(1, 16_384), anew: fc.boolean(), removed: fc.boolean(), writes, run })
  .map(({ grown, bytes, anew, removed, writes, run }) => [
    { kind: 'snapshot' },
    { kind: 'grow', disk: grown, bytes },
    { kind: 'writes', writes },
    {
      ...{ kind: 'while-off', killed: false, anew, start: true },
      image: removed ? { disk: grown === 0 ? 1 : 0, how: 'removed' } : null,
    },
    { ...run, level: 'auto', exclude: null },
  ]);

/** At either end of both disks. */
const DATA_TO_MEET: DomainStep = {
  kind: 'writes',
  writes: [0, 1].flatMap((disk) =>
    [0, 1].map((at): Write => ({ kind: 'write', disk, at, length: 1024 * 1024, pattern: 0xdd })),
  ),
};

const steps: fc.Arbitrary<readonly DomainStep[]> = fc.oneof(
  { weight: 30, arbitrary: step.map((each) => [each]) },
  { weight: 1, arbitrary: unmeasured },
);

/** The first run is one that nothing happens to: it makes the chain that the rest is about. */
const firstRun = run.map((each): DomainRunStep => {
  return { ...each, target: 0, level: 'auto', exclude: null, fault: { kind: 'none' } };
});

export const domainSequence: fc.Arbitrary<readonly DomainStep[]> = fc
  .tuple(firstRun, fc.array(steps, { minLength: 12, maxLength: 20 }))
  .map(([first, others]) => [DATA_TO_MEET, first, ...others.flat()]);

export function domainSequenceInWords(steps: readonly DomainStep[]): string {
  const words = (each: DomainStep): string => {
    if (each.kind === 'upkeep') return `- ${upkeepInWords(each)}`;
    const { kind, ...more } = each;
    const killed = each.kind === 'run' && each.fault.kind === 'kill' ? KILLED[each.fault.at] : undefined;
    const where = killed ? `, killed ${killed.when} ${killed.call} ${killed.matches.source}` : '';
    return `- ${kind} ${JSON.stringify(more)}${where}`;
  };
  return ['a libvirt domain with two disks of 64 MiB', ...steps.map(words)].join('\n');
}

import fc from 'fast-check';
import { upkeep, upkeepInWords, type UpkeepStep } from './upkeep-steps.js';

/**
 * What a torture sequence is made of, as plain values: a VM and its disks, then steps. They are drawn without knowledge
 * of the state, so that every one of them makes sense at any time and fast-check can leave any out.
 */
export interface DiskShape {
  readonly kind: 'drive' | 'blockdev' | 'throttled' | 'raw';
  /** Bytes. */
  readonly size: number;
}

export interface VmShape {
  readonly disks: readonly DiskShape[];
  /** Whether QEMU is told a name. */
  readonly named: boolean;
  /** Else it stays before its first instruction. */
  readonly running: boolean;
  /** Somebody else's bitmap on the first disk. */
  readonly foreignBitmap: boolean;
  /** Whether iothreads serve the disks. */
  readonly iothreads?: 'one' | 'each';
  /** One throttle group for all disks, whatever their kind. */
  readonly oneGroup?: boolean;
}

export interface Write {
  readonly kind: 'write' | 'zero' | 'discard';
  /** Of the disks there are, modulo their number. */
  readonly disk: number;
  /** In 1/1000 of what is left of the disk. */
  readonly at: number;
  /** Bytes. */
  readonly length: number;
  readonly pattern: number;
}

/** The n-th message of a run, or the n-th after the one that holds the transaction. */
export interface Moment {
  readonly from: 'start' | 'transaction';
  readonly n: number;
  readonly when: 'before' | 'after';
}

export type Fault =
  | { readonly kind: 'none' }
  | { readonly kind: 'kill-tool'; readonly at: Moment }
  | {
      readonly kind: 'kill-tool-at-file';
      readonly call: 'mkdir' | 'open' | 'rename' | 'rm';
      readonly nth: number;
      readonly when: 'before' | 'after';
    }
  | { readonly kind: 'quit-qemu'; readonly at: Moment }
  | { readonly kind: 'kill-qemu'; readonly at: Moment }
  | { readonly kind: 'cancel-job'; readonly at: Moment; readonly job: number }
  | { readonly kind: 'cut'; readonly at: Moment }
  | { readonly kind: 'delay'; readonly at: Moment }
  | { readonly kind: 'write'; readonly at: Moment; readonly writes: readonly Write[] }
  | { readonly kind: 'foreign-job'; readonly at: Moment; readonly disk: number }
  | { readonly kind: 'false-event'; readonly at: Moment }
  | { readonly kind: 'migrate'; readonly at: Moment };

export interface RunStep {
  readonly kind: 'run';
  readonly target: 0 | 1;
  readonly level: 'full' | 'inc' | 'diff' | 'auto' | 'copy';
  /** The one disk that is included, or all. */
  readonly include: number | null;
  /** So slow that the jobs are seen running. */
  readonly slow: boolean;
  readonly compress: boolean;
  readonly fleece: 'auto' | 'always' | 'never';
  readonly fault: Fault;
}

export type Step =
  | { readonly kind: 'writes'; readonly writes: readonly Write[] }
  | RunStep
  | { readonly kind: 'restart' }
  | { readonly kind: 'power-cut' }
  | { readonly kind: 'grow'; readonly disk: number; readonly bytes: number }
  | { readonly kind: 'snapshot'; readonly disk: number }
  | { readonly kind: 'migrate' }
  | UpkeepStep;

export interface Sequence {
  readonly vm: VmShape;
  readonly steps: readonly Step[];
  /** Draws the one restore at the end. */
  readonly restore: number;
}

const MiB = 1024 * 1024;
const SECTOR = 512;

export const is = <K extends string>(kind: K): fc.Arbitrary<K> => fc.constant(kind);
export const sectors = (min: number, max: number): fc.Arbitrary<number> =>
  fc.integer({ min, max }).map((count) => count * SECTOR);
const clusters = (min: number, max: number): fc.Arbitrary<number> =>
  fc.integer({ min, max }).map((count) => count * 65536);
const diskNumber = fc.nat({ max: 2 });

const write: fc.Arbitrary<Write> = fc.record({
  kind: fc.constantFrom<Write['kind']>('write', 'write', 'write', 'zero', 'discard'),
  disk: diskNumber,
  at: fc.nat({ max: 999 }),
  length: fc.oneof(sectors(1, 40), clusters(1, 16)),
  pattern: fc.integer({ min: 1, max: 255 }),
});
export const writes = fc.array(write, { minLength: 1, maxLength: 4 });

const when = fc.constantFrom<Moment['when']>('before', 'after');
const anywhere = fc.oneof(
  { weight: 1, arbitrary: fc.record({ from: is('start'), n: fc.integer({ min: 1, max: 55 }), when }) },
  { weight: 3, arbitrary: fc.record({ from: is('transaction'), n: fc.nat({ max: 20 }), when }) },
);
/** While the jobs run, if they are slow. */
const amidJobs = fc.record({ from: is('transaction'), n: fc.integer({ min: 1, max: 12 }), when });

const fault: fc.Arbitrary<Fault> = fc.oneof(
  { weight: 3, arbitrary: fc.record({ kind: is('none') }) },
  { weight: 7, arbitrary: fc.record({ kind: is('kill-tool'), at: anywhere }) },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: is('kill-tool-at-file'),
      call: fc.constantFrom<'mkdir' | 'open' | 'rename' | 'rm'>('mkdir', 'open', 'open', 'rename', 'rename', 'rm'),
      nth: fc.integer({ min: 1, max: 12 }),
      when,
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: is('quit-qemu'), at: anywhere }) },
  { weight: 1, arbitrary: fc.record({ kind: is('kill-qemu'), at: anywhere }) },
  { weight: 3, arbitrary: fc.record({ kind: is('cancel-job'), at: amidJobs, job: diskNumber }) },
  { weight: 1, arbitrary: fc.record({ kind: is('cut'), at: anywhere }) },
  { weight: 1, arbitrary: fc.record({ kind: is('delay'), at: anywhere }) },
  { weight: 3, arbitrary: fc.record({ kind: is('write'), at: anywhere, writes }) },
  { weight: 1, arbitrary: fc.record({ kind: is('foreign-job'), at: anywhere, disk: diskNumber }) },
  { weight: 1, arbitrary: fc.record({ kind: is('false-event'), at: amidJobs }) },
);

const run: fc.Arbitrary<RunStep> = fc.record({
  kind: is('run'),
  target: fc.constantFrom<0 | 1>(0, 0, 0, 1),
  level: fc.constantFrom<RunStep['level']>(
    'full',
    'inc',
    'inc',
    'diff',
    'auto',
    'auto',
    'auto',
    'auto',
    'auto',
    'copy',
  ),
  include: fc.oneof({ weight: 5, arbitrary: fc.constant(null) }, { weight: 1, arbitrary: diskNumber }),
  slow: fc.boolean(),
  compress: fc.constantFrom(false, false, false, true),
  fleece: fc.constantFrom<RunStep['fleece']>('never', 'never', 'always', 'auto'),
  fault,
});

const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 7, arbitrary: fc.record({ kind: is('writes'), writes }) },
  { weight: 7, arbitrary: run },
  { weight: 1, arbitrary: fc.record({ kind: is('restart') }) },
  { weight: 1, arbitrary: fc.record({ kind: is('power-cut') }) },
  { weight: 1, arbitrary: fc.record({ kind: is('grow'), disk: diskNumber, bytes: sectors(1, 4096) }) },
  { weight: 1, arbitrary: fc.record({ kind: is('snapshot'), disk: diskNumber }) },
);

const diskShape = fc.record({
  kind: fc.constantFrom<DiskShape['kind']>('drive', 'drive', 'blockdev', 'blockdev', 'throttled', 'raw'),
  size: fc.oneof(clusters(64, 192), sectors((4 * MiB) / SECTOR, (12 * MiB) / SECTOR)),
});

/** Without faults in it the first run makes the chain that everything else is about. */
function calm(each: RunStep): RunStep {
  return { ...each, target: 0, level: 'auto', include: null, fault: { kind: 'none' } };
}

/** Migrations are drawn apart, after all else: with and without them a seed stands for the same sequence. */
interface Move {
  /** The step before which it comes, or within which if that is a run in which nothing else happens. */
  readonly at: number;
  readonly during: Moment | null;
}
const move: fc.Arbitrary<Move> = fc.record({
  at: fc.nat({ max: 9 }),
  during: fc.oneof(fc.constant(null), anywhere),
});
const moves = fc.oneof(fc.constant([]), fc.array(move, { minLength: 1, maxLength: 3 }));

function withMoves(steps: readonly Step[], drawn: readonly Move[]): Step[] {
  return steps.flatMap((each, index): Step[] => {
    const here = drawn.filter(({ at }) => at === index);
    const during = here.find((move) => move.during !== null)?.during ?? null;
    const isCalm = each.kind === 'run' && each.fault.kind === 'none';
    const step: Step = isCalm && during ? { ...each, fault: { kind: 'migrate', at: during } } : each;
    return here.some((move) => move.during === null) ? [{ kind: 'migrate' }, step] : [step];
  });
}

/** Upkeep is drawn apart for the same reason. */
interface Care {
  /** The step before which it comes; beyond the last one it comes after that. */
  readonly at: number;
  readonly step: UpkeepStep;
}
const care: fc.Arbitrary<Care> = fc.record({ at: fc.integer({ min: 3, max: 13 }), step: upkeep });
const cares = fc.oneof(fc.constant([]), fc.array(care, { minLength: 1, maxLength: 2 }));

function withCares(steps: readonly Step[], drawn: readonly Care[]): Step[] {
  const before = (index: number): Step[] => drawn.flatMap(({ at, step }) => (at === index ? [step] : []));
  const after = drawn.filter(({ at }) => at >= steps.length).toSorted((a, b) => a.at - b.at);
  return [...steps.flatMap((each, index) => [...before(index), each]), ...after.map(({ step }) => step)];
}

const calmRun = run.map((each): RunStep => ({ ...calm(each), slow: false }));

/** Close to the beginning of the disks, so that they meet what was written there before. */
const closeWrite: fc.Arbitrary<Write> = fc.record({
  kind: fc.constantFrom<Write['kind']>('write', 'zero', 'discard'),
  disk: diskNumber,
  at: fc.nat({ max: 40 }),
  length: clusters(1, 8),
  pattern: fc.integer({ min: 1, max: 255 }),
});
export const closeWrites = fc.array(closeWrite, { minLength: 1, maxLength: 4 });
const DATA_TO_MEET: Step = {
  kind: 'writes',
  writes: [0, 1, 2].map((disk): Write => ({ kind: 'write', disk, at: 0, length: MiB, pattern: 0xdd })),
};
/** So that points after it can be merged which are no FULL. */
const PIN_NEWEST: UpkeepStep = {
  ...{ kind: 'upkeep', target: 0, action: { verb: 'pin', point: -1 }, fault: { kind: 'none' }, again: true },
};

/** More points, and then what makes fewer of them. */
const manyPoints: fc.Arbitrary<readonly Step[]> = fc
  .record({
    first: calmRun,
    isPinned: fc.constantFrom(true, true, false),
    rounds: fc.array(fc.tuple(fc.record({ kind: is('writes'), writes: closeWrites }), calmRun), {
      ...{ minLength: 2, maxLength: 3 },
    }),
    upkeeps: fc.array(upkeep, { minLength: 1, maxLength: 3 }),
  })
  .map(({ first, isPinned, rounds, upkeeps }) => [
    ...[DATA_TO_MEET, first, ...(isPinned ? [PIN_NEWEST] : []), ...rounds.flat()],
    ...upkeeps.map((each): UpkeepStep => ({ ...each, target: 0 })),
  ]);
const endings = fc.oneof({ weight: 1, arbitrary: fc.constant([]) }, { weight: 2, arbitrary: manyPoints });

/** What is between the guest's devices and the disks. */
const behind: fc.Arbitrary<Pick<VmShape, 'iothreads' | 'oneGroup'>> = fc.oneof(
  fc.constant({}),
  fc.record({ iothreads: fc.constantFrom<'one' | 'each'>('one', 'each'), oneGroup: fc.boolean() }),
  fc.constant({ oneGroup: true }),
);

/**
 * A job of somebody else that ends by itself kills or hangs a QEMU with iothreads without us: 7.2 at the `cont` of a VM that was
 * stopped meanwhile, both versions when another one ends at that time (docs/qemu-notes.md).
 */
function withoutForeignJob(step: Step): Step {
  return step.kind === 'run' && step.fault.kind === 'foreign-job' ? { ...step, fault: { kind: 'none' } } : step;
}

const drawnSequence = fc.record({
  vm: fc.record({
    disks: fc.array(diskShape, { minLength: 2, maxLength: 3 }),
    named: fc.boolean(),
    running: fc.boolean(),
    foreignBitmap: fc.boolean(),
  }),
  steps: fc
    .tuple(
      fc.record({ kind: is('writes'), writes }),
      fc.oneof({ weight: 3, arbitrary: run.map(calm) }, { weight: 1, arbitrary: step }),
      fc.array(step, { minLength: 4, maxLength: 8 }),
    )
    .map(([first, second, others]): Step[] => [first, second, ...others]),
  restore: fc.nat({ max: 1_000_000 }),
  // Drawn last, so that a seed goes on standing for the rest of its sequence.
  moves,
  behind,
  cares,
  endings,
});

export const sequence: fc.Arbitrary<Sequence> = drawnSequence.map(
  ({ moves: drawn, behind, cares: upkeeps, endings: last, vm, steps, ...rest }) => {
    const possible = behind.iothreads === undefined ? steps : steps.map(withoutForeignJob);
    return { ...rest, vm: { ...vm, ...behind }, steps: [...withCares(withMoves(possible, drawn), upkeeps), ...last] };
  },
);

// --- in words ----------------------------------------------------------------------------------------------------------

export function sequenceInWords({ vm, steps }: Sequence): string {
  const disks = vm.disks.map(({ kind, size }, index) => `d${index} (${kind}, ${size} bytes)`).join(', ');
  const traits = [vm.named ? 'named' : 'without a name', vm.running ? 'running' : 'prelaunch'];
  if (vm.foreignBitmap) traits.push("with somebody else's bitmap on d0");
  if (vm.iothreads !== undefined)
    traits.push(vm.iothreads === 'one' ? 'all disks in one iothread' : 'an iothread for each disk');
  if (vm.oneGroup) traits.push('one throttle group');
  return [`a VM, ${traits.join(', ')}: ${disks}`, ...steps.map((each) => `- ${stepInWords(each)}`)].join('\n');
}

export function stepInWords(each: Step): string {
  switch (each.kind) {
    case 'writes':
      return each.writes.map(writeInWords).join('; ');
    case 'restart':
      return 'QEMU ends gracefully and starts again';
    case 'power-cut':
      return 'QEMU is killed and starts again';
    case 'grow':
      return `disk ${each.disk} grows by ${each.bytes} bytes`;
    case 'migrate':
      return 'the VM is migrated to another QEMU';
    case 'snapshot':
      return `disk ${each.disk} gets an external snapshot`;
    case 'upkeep':
      return upkeepInWords(each);
    case 'run': {
      const options = [each.slow ? 'slow' : '', each.compress ? 'compressed' : '', `fleece ${each.fleece}`].filter(
        Boolean,
      );
      const disks = each.include === null ? '' : ` of disk ${each.include} alone`;
      return `backup ${each.level}${disks} into target ${each.target} ${options.join(', ')}: ${faultInWords(each.fault)}`;
    }
  }
}

export function faultInWords(fault: Fault): string {
  switch (fault.kind) {
    case 'none':
      return 'nothing happens';
    case 'kill-tool-at-file':
      return `the tool is killed ${fault.when} its call ${fault.nth} of ${fault.call}`;
    case 'kill-tool':
      return `the tool is killed ${momentInWords(fault.at)}`;
    case 'quit-qemu':
      return `QEMU quits ${momentInWords(fault.at)}`;
    case 'kill-qemu':
      return `QEMU is killed ${momentInWords(fault.at)}`;
    case 'cancel-job':
      return `job ${fault.job} is cancelled ${momentInWords(fault.at)}`;
    case 'cut':
      return `the connection breaks ${momentInWords(fault.at)}`;
    case 'delay':
      return `the monitor is slow ${momentInWords(fault.at)}`;
    case 'write':
      return `${fault.writes.map(writeInWords).join('; ')}, ${momentInWords(fault.at)}`;
    case 'foreign-job':
      return `somebody else copies disk ${fault.disk} ${momentInWords(fault.at)}`;
    case 'migrate':
      return `the VM is migrated ${momentInWords(fault.at)}`;
    case 'false-event':
      return `an event of somebody else's job comes ${momentInWords(fault.at)}`;
  }
}

function writeInWords({ kind, disk: on, at, length, pattern }: Write): string {
  const what = kind === 'write' ? `0x${pattern.toString(16)}` : kind === 'zero' ? 'zeros' : 'a discard';
  return `${what} of ${length} bytes on disk ${on} at ${at}/1000`;
}

function momentInWords({ from, n, when: side }: Moment): string {
  return `${side} message ${n}${from === 'start' ? '' : ' from the transaction on'}`;
}

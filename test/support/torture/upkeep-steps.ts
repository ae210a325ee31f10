import fc from 'fast-check';
import type { CrashPoint } from '../crash-point.js';

/** What is done to a target between two backups, without its VM: as plain values, that make sense at any time. */
export type UpkeepAction =
  /** `rules` as prune is told them. */
  | { readonly verb: 'prune'; readonly rules: readonly string[]; readonly consolidate: boolean }
  /** So many points of the newest chain remain. */
  | { readonly verb: 'consolidate'; readonly keep: number }
  /** Number of the point among all those in chains, modulo how many there are. */
  | { readonly verb: 'consolidate'; readonly until: number }
  /** Number of the point among all, modulo how many there are; -1 is the newest. */
  | { readonly verb: 'pin' | 'unpin'; readonly point: number }
  | { readonly verb: 'verify'; readonly readData: boolean };

export type UpkeepFault =
  | { readonly kind: 'none' }
  /** SIGKILL of the tool; a run may not come to it. */
  | ({ readonly kind: 'kill'; readonly nth: number } & Pick<CrashPoint, 'call' | 'when'>)
  /** The storage keeps something else than was written to a new file. */
  | { readonly kind: 'wrong-bytes' };

export interface UpkeepStep {
  readonly kind: 'upkeep';
  readonly target: 0 | 1;
  readonly action: UpkeepAction;
  readonly fault: UpkeepFault;
  /** Of one that did not end: it is done again at once. Else whoever comes next finds what it left. */
  readonly again: boolean;
}

const is = <K extends string>(value: K): fc.Arbitrary<K> => fc.constant(value);

const rules = fc.constantFrom<readonly string[]>(
  ['--keep-last', '1'],
  ['--keep-last', '2'],
  ['--keep-last', '2'],
  ['--keep-last', '3'],
  ['--keep-hourly', '1'],
  ['--keep-last', '2', '--keep-daily', '3'],
);

/** The oldest more often than any other: by it points in the middle of a chain can go. */
const anyPoint = fc.oneof(fc.constant(0), fc.nat({ max: 11 }));

const action: fc.Arbitrary<UpkeepAction> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ verb: is('prune'), rules, consolidate: fc.boolean() }) },
  { weight: 3, arbitrary: fc.record({ verb: is('consolidate'), keep: fc.integer({ min: 1, max: 4 }) }) },
  { weight: 1, arbitrary: fc.record({ verb: is('consolidate'), until: fc.nat({ max: 11 }) }) },
  { weight: 2, arbitrary: fc.record({ verb: is('pin'), point: anyPoint }) },
  { weight: 1, arbitrary: fc.record({ verb: is('unpin'), point: anyPoint }) },
  { weight: 1, arbitrary: fc.record({ verb: is('verify'), readData: fc.boolean() }) },
);

/** About as many calls as a run has that merges. */
const MOST_CALLS = { open: 60, rename: 20, rm: 12, spawn: 14 } as const;

const killAt = (call: keyof typeof MOST_CALLS): fc.Arbitrary<UpkeepFault> =>
  fc.record({
    ...{ kind: is('kill'), call: is(call) },
    ...{ nth: fc.integer({ min: 1, max: MOST_CALLS[call] }), when: fc.constantFrom('before', 'after') },
  });

const fault: fc.Arbitrary<UpkeepFault> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ kind: is('none') }) },
  ...(['open', 'rename', 'rm', 'spawn'] as const).map((call) => ({ weight: 1, arbitrary: killAt(call) })),
  { weight: 2, arbitrary: fc.record({ kind: is('wrong-bytes') }) },
);

export const upkeep: fc.Arbitrary<UpkeepStep> = fc.record({
  kind: is('upkeep'),
  target: fc.constantFrom<0 | 1>(0, 0, 0, 1),
  action,
  fault,
  again: fc.constantFrom(true, true, true, false),
});

export function upkeepInWords({ target, action: what, fault: how, again }: UpkeepStep): string {
  const next = how.kind === 'none' || again ? '' : ', and it is not done again';
  return `${actionInWords(what)} of target ${target}: ${faultInWords(how)}${next}`;
}

function actionInWords(what: UpkeepAction): string {
  switch (what.verb) {
    case 'prune':
      return ['prune', ...what.rules, ...(what.consolidate ? ['--consolidate'] : [])].join(' ');
    case 'consolidate':
      return 'keep' in what ? `consolidate --keep ${what.keep}` : `consolidate --until the point ${what.until}`;
    case 'pin':
    case 'unpin':
      return `${what.verb} the point ${what.point}`;
    case 'verify':
      return what.readData ? 'verify --read-data' : 'verify';
  }
}

function faultInWords(how: UpkeepFault): string {
  switch (how.kind) {
    case 'none':
      return 'nothing happens';
    case 'kill':
      return `the tool is killed ${how.when} its call ${how.nth} of ${how.call}`;
    case 'wrong-bytes':
      return 'the storage keeps other bytes of a new file than were written';
  }
}

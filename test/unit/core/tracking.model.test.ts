import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CLUSTERS } from '../../support/pretend/qemu.js';
import { type Bugs, type Death, Pretend } from '../../support/pretend/run.js';

// The tracking protocol as a whole, in pure form: whatever is written and whoever dies at whatever step, over several
// disks and two targets, every point that a catalog names is what the disks held at its instant.

type Step =
  | { readonly kind: 'write'; readonly disk: number; readonly cluster: number }
  | { readonly kind: 'restart' | 'power-cut' | 'jobs-end' }
  | {
      readonly kind: 'run';
      readonly target: number;
      readonly level: 'full' | 'inc' | 'diff' | 'auto' | 'copy';
      readonly death: Death | null;
    };

const is = <K extends string>(kind: K): fc.Arbitrary<K> => fc.constant(kind);

const death: fc.Arbitrary<Death | null> = fc.option(
  fc.record({
    after: fc.integer({ min: 1, max: 24 }),
    of: fc.constantFrom<Death['of']>('tool', 'tool', 'tool', 'job', 'qemu-quits', 'qemu-killed'),
  }),
);
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({ kind: is('write'), disk: fc.nat({ max: 2 }), cluster: fc.nat({ max: CLUSTERS - 1 }) }),
  },
  {
    weight: 6,
    arbitrary: fc.record({
      kind: is('run'),
      target: fc.constantFrom(0, 0, 1),
      level: fc.constantFrom<'full' | 'inc' | 'diff' | 'auto' | 'copy'>('full', 'inc', 'inc', 'diff', 'auto', 'copy'),
      death,
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constantFrom('restart', 'power-cut', 'jobs-end') }) },
);
const sequence = fc.record({
  disks: fc.array(fc.record({ raw: fc.constantFrom(false, false, true) }), { minLength: 1, maxLength: 3 }),
  steps: fc.array(step, { minLength: 4, maxLength: 24 }),
});

function hold(
  { disks, steps }: { readonly disks: readonly { raw: boolean }[]; readonly steps: readonly Step[] },
  bugs?: Bugs,
): void {
  const pretend = new Pretend(disks, 2, bugs);
  const auto = (target: number): void => {
    const outcome = pretend.run(target, 'auto');
    if (outcome !== 'done') throw new Error(`a clean run of auto was ${outcome}`);
    pretend.expectTidy(pretend.targets[target]!);
  };
  for (const each of steps) {
    switch (each.kind) {
      case 'write':
        pretend.qemu.write(each.disk, each.cluster);
        break;
      case 'restart':
        pretend.restart();
        break;
      case 'power-cut':
        pretend.powerCut();
        break;
      case 'jobs-end':
        pretend.letJobsEnd();
        break;
      case 'run':
        if (each.death === null && each.level === 'auto') auto(each.target);
        else pretend.run(each.target, each.level, each.death ?? undefined);
        break;
    }
  }
  auto(0);
  auto(1);
  pretend.expectPoints();
}

describe('the tracking protocol', () => {
  it('loses nothing, whoever dies at whatever step', { timeout: 60_000 }, () => {
    fc.assert(
      fc.property(sequence, (drawn) => hold(drawn)),
      { numRuns: 3000 },
    );
  });

  it('goes on incrementally after any number of runs that were killed', { timeout: 60_000 }, () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 24 }), { maxLength: 6 }), (deaths) => {
        const pretend = new Pretend([{ raw: false }, { raw: false }], 1);
        expect(pretend.run(0, 'full')).toBe('done');
        deaths.forEach((after, index) => {
          pretend.qemu.write(index, index % CLUSTERS);
          pretend.run(0, 'inc', { after, of: index % 2 === 0 ? 'tool' : 'qemu-quits' });
        });
        expect(pretend.run(0, 'inc')).toBe('done');
        pretend.expectPoints();
      }),
      { numRuns: 300 },
    );
  });

  it.each<[string, Bugs]>([
    ['clears the bitmap of the parent at the start', { clearsTheParent: true }],
    ['seals before the jobs end', { sealsEarly: true }],
    ['reuses a bitmap name', { reusesNames: true }],
  ])('would be seen to lose something if it %s', (_, bugs) => {
    const details = fc.check(
      fc.property(sequence, (drawn) => hold(drawn, bugs)),
      { numRuns: 500, seed: 1, endOnFailure: true },
    );
    expect(details.failed).toBe(true);
  });
});

import { describe, expect, it } from 'vitest';
import { resultOf, type Result } from '../../../scripts/bench/results.js';
import { exitCodeOf, missedGoals, tableOf } from '../../../scripts/bench/table.js';

const full = (atMost: number, other = true): Result =>
  resultOf({ name: 'full', unit: 'ms', limit: { by: 'times', atMost } }, 'memory', [
    { name: 'this build', role: 'this', samples: [4000] },
    ...(other ? [{ name: 'the other build', role: 'other', samples: [5000] } as const] : []),
    { name: 'the bare job', role: 'against', samples: [1600] },
    { name: 'qemu-img convert', role: 'beside', samples: [1720] },
  ]);
const freeze = resultOf({ name: 'freeze-2-full', unit: 'ms', limit: { by: 'more', atMost: 8 } }, 'memory', [
  { name: 'this build', role: 'this', samples: [45.04] },
  { name: 'the bare transaction', role: 'against', samples: [20.02] },
]);
const memory = resultOf({ name: 'domain-memory', unit: 'MiB', limit: { by: 'itself', atMost: 200 } }, 'memory', [
  { name: 'this build', role: 'this', samples: [150.4] },
]);

const nothing = { results: [], leftOut: [], failed: [] };

describe('the table of a bench', () => {
  it('sets each figure beside what it is compared with, and tells which goals are missed', () => {
    const results = [
      full(1.6),
      { ...full(1.6), where: 'disk' as const, met: null, limit: { by: 'times', atMost: null } as const },
      freeze,
      memory,
    ];
    expect(tableOf({ ...nothing, results, leftOut: [{ what: 'eight-disks (memory)', why: 'no room' }] })).toBe(
      `in memory
case           this build  the other   ratio  against                                      goal
full               4.00 s     5.00 s  0.80 ×  the bare job           1.60 s        2.50 ×  at most 1.60 ×       MISSED
                                              qemu-img convert       1.72 s
freeze-2-full     45.0 ms                     the bare transaction  20.0 ms  25.0 ms more  at most 8.0 ms more  MISSED
domain-memory     150 MiB                                                                  at most 200 MiB      met

in files on a disk
case  this build  the other   ratio  against
full      4.00 s     5.00 s  0.80 ×  the bare job      1.60 s  2.50 ×
                                     qemu-img convert  1.72 s

goals that were missed:
  full: 2.50 × the bare job, goal at most 1.60 ×
  freeze-2-full: 25.0 ms more than the bare transaction, goal at most 8.0 ms more
left out: eight-disks (memory): no room`,
    );
  });

  it('has no column for another build where there is none', () => {
    const [, head] = tableOf({ ...nothing, results: [full(3, false)] }).split('\n');
    expect(head).toMatch(/^case +this build +against +goal$/);
  });

  it('is nothing but what went wrong where nothing was measured', () => {
    expect(tableOf({ ...nothing, failed: [{ what: 'full (disk)', why: 'no' }] })).toBe('failed: full (disk): no');
  });
});

describe('goals', () => {
  it('are named with what was measured', () => {
    expect(missedGoals([full(3), full(1.6), freeze, memory])).toEqual([
      'full: 2.50 × the bare job, goal at most 1.60 ×',
      'freeze-2-full: 25.0 ms more than the bare transaction, goal at most 8.0 ms more',
    ]);
  });

  it('fail the bench when one is missed, and so does a case that could not be measured', () => {
    expect(exitCodeOf({ ...nothing, results: [full(3), memory] })).toBe(0);
    expect(exitCodeOf({ ...nothing, results: [full(3), freeze] })).toBe(1);
    expect(exitCodeOf({ ...nothing, failed: [{ what: 'full (disk)', why: 'no' }] })).toBe(1);
    expect(exitCodeOf({ ...nothing, leftOut: [{ what: 'full (disk)', why: 'no room' }] })).toBe(0);
  });
});

import { expect, it } from 'vitest';
import { renderList } from '../../../src/cli/render/list.js';
import type { BootProof } from '../../../src/core/boot-proof.js';
import type { ListedPoint, ListedTarget, ListResult } from '../../../src/operations/list.js';
import { entry, point } from '../../support/builders.js';

function target(boots: readonly (Partial<BootProof> | null)[]): ListedTarget {
  const points = boots.map((proof, number): ListedPoint => {
    const at = '2026-11-01T12:00:00.000Z';
    const booted = proof && { point: 'p', at, by: 'agent' as const, afterMs: null, why: null, ...proof };
    const made = point(number, [entry('vda', `FULL-${number}.qcow2`)], { createdAt: at });
    const freed = { bytes: 1536 * number, neededBy: ['a', 'b'].slice(number) };
    return {
      ...{ point: made, files: 1, needs: ['vda/FULL'], notWhole: null, damaged: [], suspect: [] },
      booted,
      freed,
    };
  });
  return { ...{ target: '/t', vm: { uuid: null, name: 'vm', label: null }, targetId: 'a', warnings: [] }, points };
}

function listed(...targets: readonly ListedTarget[]): ListResult {
  return { targets, unread: [] };
}

it('tells of each point when and how fast it booted, where one was tried', () => {
  const lines = renderList(listed(target([{ afterMs: 5_900 }, { why: 'no' }, null])), false).split('\n');
  const [, header = '', ...rows] = lines;
  const column = header.indexOf('BOOTED');
  expect(column).toBeGreaterThan(0);
  const cells = rows.map((row) => row.slice(column, header.indexOf('DISKS')).trim());
  expect(cells).toEqual([
    expect.stringMatching(/^2026-11-01 \d\d:00:00 in 5\.9 s$/),
    expect.stringMatching(/^2026-11-01 \d\d:00:00 FAILED$/),
    '-',
  ]);
});

it('has no column for that where none was', () => {
  expect(renderList(listed(target([null, null])), false)).not.toContain('BOOTED');
});

it('tells what the removal of a point would free, or how many build on it', () => {
  const [, header = '', ...rows] = renderList(listed(target([null, null, null])), false).split('\n');
  const column = header.indexOf('FREES');
  const cells = rows.map((row) => row.slice(column, header.indexOf('DISKS')).trim());
  expect(cells).toEqual(['0 (2 build on it)', '0 (1 builds on it)', '3.0 KiB']);
});

import { describe, expect, it } from 'vitest';
import type { Case } from '../../../scripts/bench/case.js';
import { chosenCases } from '../../../scripts/bench/choose.js';

const named = (name: string, unasked: Case['unasked']): Case => ({
  ...{ name, unasked, idea: '', unit: 'ms', limit: { by: 'itself', atMost: null } },
  bytes: () => 0,
  prepare: () => Promise.resolve([]),
});
const ALL = [named('full', ['memory', 'disk']), named('freeze', ['memory']), named('run-500', [])];

function chosen(asked: { readonly only?: string; readonly where?: string; readonly rounds?: string }): unknown {
  const answer = chosenCases(ALL, { rounds: '5', ...asked });
  if ('wrong' in answer) return answer.wrong;
  return answer.cases.map(({ case: { name }, where }) => `${name} ${where}`);
}

describe('which cases are measured', () => {
  it('are all that are not too long, each where it tells something', () => {
    expect(chosen({})).toEqual(['full memory', 'full disk', 'freeze memory']);
    expect(chosen({ where: 'disk' })).toEqual(['full disk']);
  });

  it('are those that were named, long ones too, in memory unless told', () => {
    expect(chosen({ only: 'run-500,full' })).toEqual(['full memory', 'run-500 memory']);
    expect(chosen({ only: 'freeze', where: 'disk' })).toEqual(['freeze disk']);
  });

  it('are none where a name, a place or a number is wrong', () => {
    expect(chosen({ only: 'full,ful' })).toBe('--only: there is no case ful; there are full, freeze, run-500');
    expect(chosen({ where: 'tape' })).toBe('--where is memory or disk, not tape');
    for (const rounds of ['0', '1.5', 'many', '']) expect(chosen({ rounds })).toMatch(/--rounds is a number from 1 on/);
  });
});

import { expect, it } from 'vitest';
import { filledIn } from '../../../scripts/bench/programs.js';
import { takeTurns } from '../../../scripts/bench/rounds.js';

it('measures take turns, each first in its turn, and none before what the last has left is settled', async () => {
  const told: string[] = [];
  const measures = ['a', 'b', 'c'].map((name, index) => ({
    name,
    role: 'beside' as const,
    take: () => {
      told.push(name);
      return Promise.resolve(told.length * 10 + index);
    },
  }));
  const sampled = await takeTurns(measures, {
    rounds: 3,
    settle: () => {
      told.push('-');
      return Promise.resolve();
    },
  });
  expect(told.join('')).toBe('-a-b-c-b-c-a-c-a-b');
  expect(sampled).toEqual([
    { name: 'a', role: 'beside', samples: [20, 120, 160] },
    { name: 'b', role: 'beside', samples: [41, 81, 181] },
    { name: 'c', role: 'beside', samples: [62, 102, 142] },
  ]);
});

it('a command has its places filled in, and keeps what is none', () => {
  const places = { socket: '/run/vm.sock', level: 'inc' };
  expect(filledIn('tool --socket {socket} -l {level} -l {level} {other} ${HOME}', places)).toBe(
    'tool --socket /run/vm.sock -l inc -l inc {other} ${HOME}',
  );
});

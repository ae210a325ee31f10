/** Which cases are run, and where, by what was asked for. */
import type { Case, Where } from './case.js';

export interface Asked {
  readonly only?: string | undefined;
  readonly where?: string | undefined;
  readonly rounds: string;
}

export interface Chosen {
  readonly cases: readonly { readonly case: Case; readonly where: Where }[];
  readonly rounds: number;
}

/** `wrong`: what cannot be understood, in words. A case that is asked for by name is in memory unless told. */
export function chosenCases(all: readonly Case[], asked: Asked): Chosen | { readonly wrong: string } {
  const { where, only } = asked;
  if (where !== undefined && where !== 'memory' && where !== 'disk') {
    return { wrong: `--where is memory or disk, not ${where}` };
  }
  const rounds = Number(asked.rounds);
  if (!Number.isInteger(rounds) || rounds < 1) return { wrong: `--rounds is a number from 1 on, not ${asked.rounds}` };
  if (only === undefined) {
    const cases = all.flatMap((each) =>
      each.unasked
        .filter((place) => where === undefined || place === where)
        .map((place) => ({ case: each, where: place })),
    );
    return { cases, rounds };
  }
  const names = only.split(',');
  const unknown = names.find((name) => !all.some((each) => each.name === name));
  if (unknown !== undefined) {
    return { wrong: `--only: there is no case ${unknown}; there are ${all.map(({ name }) => name).join(', ')}` };
  }
  const cases = all.filter(({ name }) => names.includes(name));
  return { cases: cases.map((each) => ({ case: each, where: where ?? 'memory' })), rounds };
}

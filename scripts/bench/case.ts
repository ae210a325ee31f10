/** What a case of the bench is made of: one idea, what is timed, what it is compared with, and how far off it may be. */
import type { Unwind } from '../../src/flow/unwind.js';
import type { Place } from './place.js';

export const MiB = 1024 * 1024;
export const GiB = 1024 * MiB;

export interface Case {
  readonly name: string;
  /** What is timed and against what, in a line. */
  readonly idea: string;
  readonly unit: Unit;
  readonly limit: Limit;
  /** The most bytes that it keeps in its folder at once. */
  readonly bytes: (size: Size) => number;
  /** Also when nobody asks for it by name: in memory, on disk. A run of it on disk is not held to its goal. */
  readonly unasked: readonly Where[];
  /** Turns in each round, where one is short: 1 unless told. */
  readonly turns?: number;
  /** Sets up what each turn needs; nothing of it is timed. What is to be undone is left with `unwind`. */
  readonly prepare: (bench: Bench, unwind: Unwind) => Promise<readonly Measure[]>;
}

export interface Size {
  /** How many builds are measured. */
  readonly programs: number;
  /** How often each measure is taken. */
  readonly turns: number;
}

export type Where = Place['where'];

export type Unit = 'ms' | 'MiB';

export interface Limit {
  /** `times` and `more`: against the quickest of what the case is compared with; `itself`: the figure alone. */
  readonly by: 'times' | 'more' | 'itself';
  /** The goal; null where there is none. */
  readonly atMost: number | null;
}

export interface Bench {
  /** An empty folder for this case. */
  readonly dir: string;
  readonly programs: readonly Program[];
}

export interface Program {
  readonly role: 'this' | 'other';
  /** A bin/qmpbackup.js. */
  readonly path: string;
}

/** `against` is what the goal is about, `beside` is only shown. */
export type Role = Program['role'] | 'against' | 'beside';

export interface Measure {
  readonly name: string;
  readonly role: Role;
  /** One turn: prepares it, measures, tidies up, and tells what was measured in the unit of the case. */
  readonly take: Take;
}

export type Take = () => Promise<number>;

/** The same measure of each program, set up one after the other, so that none works with what the other has left. */
export async function ofEachProgram(
  { programs }: Bench,
  setUp: (program: Program) => Promise<Take>,
): Promise<readonly Measure[]> {
  const measures: Measure[] = [];
  for (const program of programs) {
    measures.push({ name: PROGRAM_NAMES[program.role], role: program.role, take: await setUp(program) });
  }
  return measures;
}

const PROGRAM_NAMES = { this: 'this build', other: 'the other build' } as const;

export function against(name: string, take: Take): Measure {
  return { name, role: 'against', take };
}

export function beside(name: string, take: Take): Measure {
  return { name, role: 'beside', take };
}

/** Milliseconds that `body` takes. */
export async function timed(body: () => Promise<unknown>): Promise<number> {
  const begun = performance.now();
  await body();
  return performance.now() - begun;
}

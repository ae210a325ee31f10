/** Targets whose points are merged: each turn begins with the same, and what it leaves is of no use to the next. */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { type Bench, type Measure, ofEachProgram, timed } from './case.js';
import { runProgram } from './programs.js';

/** `verb` on a copy of `target`, which no program has changed. */
export function merging(
  bench: Bench,
  { target, copies }: { readonly target: string; readonly copies: string },
  verb: (copy: string) => readonly string[],
): Promise<readonly Measure[]> {
  return ofEachProgram(bench, (program) =>
    Promise.resolve(() => onCopy(target, copies, (copy) => timed(() => runProgram(program, verb(copy))))),
  );
}

/** With the times of all files: by them the program knows that nobody has touched them. */
export async function onCopy<T>(target: string, copies: string, use: (copy: string) => Promise<T>): Promise<T> {
  const copy = join(copies, 'copy');
  await execa('cp', ['--archive', target, copy]);
  try {
    return await use(copy);
  } finally {
    await rm(copy, { recursive: true });
  }
}

/** A FULL of 3 GiB and two INCs of 64 MiB as one image, proved or also compared, against qemu-img convert of the same chain. */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { against, type Case, ofEachProgram, type Program, timed } from '../case.js';
import { DISK, makeChain } from '../chain.js';
import { convert, runProgram } from '../programs.js';

/** Of a restore that is not compared, and of one that is. */
const [COPIED, COMPARED] = [1.25, 2.2];

export const restore: Case = restoring({
  name: 'restore',
  idea: 'restore --no-verify of FULL and 2 INC, proved, against qemu-img convert of the chain',
  compared: false,
  read: (target, to) => ['restore', '--target', target, '--output', to],
});

export const restoreCompared: Case = restoring({
  name: 'restore-compared',
  idea: 'restore of FULL and 2 INC, proved and compared, against qemu-img convert of the chain',
  compared: true,
  read: (target, to) => ['restore', '--target', target, '--output', to],
});

export const merge: Case = restoring({
  name: 'merge',
  idea: 'merge --no-verify of FULL and 2 INC, proved, against qemu-img convert of the chain',
  compared: false,
  read: (target, to) => ['merge', '--target', target, '--disk', DISK.id, '--targetfile', to],
});

/** Each program reads what it wrote itself: an older one need not know what a newer one writes. */
function restoring({
  name,
  idea,
  compared,
  read,
}: Pick<Case, 'name' | 'idea'> & {
  readonly compared: boolean;
  readonly read: (target: string, to: string) => readonly string[];
}): Case {
  return {
    name,
    idea,
    unit: 'ms',
    limit: { by: 'times', atMost: compared ? COMPARED : COPIED },
    bytes: ({ programs }) => (programs + 1.2) * DISK.data,
    unasked: ['memory', 'disk'],
    prepare: async (bench) => {
      const chains = new Map<Program['role'], string>();
      const output = join(bench.dir, 'restored');
      const programs = await ofEachProgram(bench, async (program) => {
        const target = join(bench.dir, `target-${program.role}`);
        chains.set(program.role, await makeChain(program, bench.dir, target));
        const [verb = ''] = read(target, output);
        // A build of before compares nothing, and does not know the word.
        const knows = (await runProgram(program, [verb, '--help'])).includes('--no-verify');
        const args = [...read(target, output), ...(compared || !knows ? [] : ['--no-verify'])];
        return async () => {
          const ms = await timed(() => runProgram(program, args));
          await rm(output, { recursive: true });
          return ms;
        };
      });
      const newest = chains.get('this') ?? '';
      return [
        ...programs,
        against('qemu-img convert', async () => {
          const ms = await timed(() => convert(newest, output));
          await rm(output);
          return ms;
        }),
      ];
    },
  };
}

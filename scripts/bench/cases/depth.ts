/** Whether reading takes longer than in proportion as a chain grows: 1500 files against 400, and 100 beside. */
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { makeLongTarget } from '../../../test/support/long-chain.js';
import { against, beside, type Case, MiB, ofEachProgram, type Program, timed } from '../case.js';
import { runProgram } from '../programs.js';
import { firstByteOf } from './served.js';

const [LONG, MIDDLE, SHORT] = [1500, 400, 100] as const;

type Read = (program: Program, target: string, dir: string) => Promise<number>;

export const depths: readonly Case[] = [
  depth('restore', async (program, target, dir) => {
    const output = join(dir, 'restored');
    const ms = await timed(() => runProgram(program, ['restore', '--target', target, '--output', output]));
    await rm(output, { recursive: true });
    return ms;
  }),
  depth('verify', (program, target) => timed(() => runProgram(program, ['verify', '--target', target, '--read-data']))),
  depth('serve', firstByteOf),
];

function depth(verb: string, read: Read): Case {
  return {
    name: `${verb}-${LONG}`,
    idea: `${verb} of a chain of ${LONG} files (serve: until the first byte), against ${MIDDLE}`,
    unit: 'ms',
    // In proportion, and a tenth more.
    limit: { by: 'times', atMost: (1.1 * LONG) / MIDDLE },
    bytes: () => 800 * MiB,
    unasked: ['memory'],
    prepare: async ({ dir, programs }) => {
      const target = async (files: number): Promise<string> => {
        const root = join(dir, String(files));
        await mkdir(root);
        await makeLongTarget(root, files);
        return join(root, 'target');
      };
      const [long, middle, short] = [await target(LONG), await target(MIDDLE), await target(SHORT)];
      const [program] = programs;
      if (!program) throw new Error('there is no program to measure');
      return [
        ...(await ofEachProgram({ dir, programs }, (each) => Promise.resolve(() => read(each, long, dir)))),
        against(`${MIDDLE} files`, () => read(program, middle, dir)),
        beside(`${SHORT} files`, () => read(program, short, dir)),
      ];
    },
  };
}

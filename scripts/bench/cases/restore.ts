/** A FULL of 3 GiB and two INCs of 64 MiB as one image, proved, against qemu-img convert of the same chain. */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { unwinding } from '../../../src/flow/unwind.js';
import { against, type Case, GiB, MiB, ofEachProgram, type Program, timed } from '../case.js';
import { change, startVm } from '../disks.js';
import { convert, runProgram } from '../programs.js';

const DISK = { id: 'disk', size: 3 * GiB, data: 3 * GiB };
const CHANGED = 64 * MiB;

export const restore: Case = restoring({
  name: 'restore',
  idea: 'restore of FULL and 2 INC, proved, against qemu-img convert of the chain',
  read: (target, to) => ['restore', '--target', target, '--output', to],
});

export const merge: Case = restoring({
  name: 'merge',
  idea: 'merge of FULL and 2 INC, proved, against qemu-img convert of the chain',
  read: (target, to) => ['merge', '--target', target, '--disk', DISK.id, '--targetfile', to],
});

/** Each program reads what it wrote itself: an older one need not know what a newer one writes. */
function restoring({
  name,
  idea,
  read,
}: Pick<Case, 'name' | 'idea'> & { readonly read: (target: string, to: string) => readonly string[] }): Case {
  return {
    name,
    idea,
    unit: 'ms',
    limit: { by: 'times', atMost: 1.25 },
    bytes: ({ programs }) => (programs + 1.2) * DISK.data,
    unasked: ['memory', 'disk'],
    prepare: async (bench) => {
      const chains = new Map<Program['role'], string>();
      const output = join(bench.dir, 'restored');
      const programs = await ofEachProgram(bench, async (program) => {
        const target = join(bench.dir, `target-${program.role}`);
        chains.set(program.role, await makeChain(program, bench.dir, target));
        return async () => {
          const ms = await timed(() => runProgram(program, read(target, output)));
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

/** The newest file of a chain that a program wrote; the VM is gone, and so is its disk. */
async function makeChain(program: Program, dir: string, target: string): Promise<string> {
  return unwinding(async (unwind) => {
    const vm = await startVm(dir, program.role, [DISK], unwind);
    unwind.defer(() => rm(vm.disk(DISK.id).file ?? ''));
    let file = '';
    for (const level of ['full', 'inc', 'inc']) {
      if (level === 'inc') await change(vm, DISK.id, CHANGED);
      const backup = ['backup', '--level', level, '--target', target];
      file = fileOf(await runProgram(program, ['--json', '--socket', vm.socket, ...backup]));
    }
    return join(target, DISK.id, file);
  });
}

function fileOf(answer: string): string {
  const { point } = JSON.parse(answer) as { readonly point: { readonly disks: readonly { readonly file: string }[] } };
  const [disk] = point.disks;
  if (!disk) throw new Error(`no disk in ${answer}`);
  return disk.file;
}

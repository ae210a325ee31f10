/** A FULL of 3 GiB and two INCs of 64 MiB, to be read. */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { unwinding } from '../../src/flow/unwind.js';
import { GiB, MiB, type Program } from './case.js';
import { change, startVm } from './disks.js';
import { runProgram } from './programs.js';

export const DISK = { id: 'disk', size: 3 * GiB, data: 3 * GiB };
const CHANGED = 64 * MiB;

/** The newest file of a chain that a program wrote; the VM is gone, and so is its disk. */
export async function makeChain(program: Program, dir: string, target: string): Promise<string> {
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

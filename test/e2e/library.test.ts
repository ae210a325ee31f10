import { copyFile, mkdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { expect, it } from 'vitest';
import { MiB } from '../support/builders.js';
import { ensureBuilt } from '../support/built.js';
import { compareImages } from '../support/lab/compare.js';
import { flush, write } from '../support/lab/guest-writes.js';
import { projectRoot } from '../support/lab/programs.js';
import { labDir, scenario } from '../support/scenario.js';

const MODULES = join(projectRoot(), 'node_modules');

/** A project that has this package installed, with the example of the documentation as its program; compiled. */
async function exampleProject(): Promise<string> {
  await ensureBuilt();
  const dir = await labDir();
  await mkdir(join(dir, 'node_modules'));
  await symlink(projectRoot(), join(dir, 'node_modules', 'qmpbackup'));
  await copyFile(join(projectRoot(), 'docs', 'examples', 'backup.ts'), join(dir, 'backup.ts'));
  await writeFile(join(dir, 'package.json'), JSON.stringify({ type: 'module' }));
  const compilerOptions = {
    ...{ strict: true, exactOptionalPropertyTypes: true, module: 'NodeNext', target: 'ES2022' },
    ...{ types: ['node'], typeRoots: [join(MODULES, '@types')], outDir: 'out', rootDir: '.' },
  };
  await writeFile(join(dir, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: ['backup.ts'] }));
  const compiler = join(MODULES, 'typescript', 'bin', 'tsc');
  const { stdout, exitCode } = await execa(process.execPath, [compiler, '-p', dir], { reject: false });
  expect(stdout).toBe('');
  expect(exitCode).toBe(0);
  return join(dir, 'out', 'backup.js');
}

it('the example of the documentation compiles against the package, and takes a point that it restores', async () => {
  const program = await exampleProject();
  const lab = await scenario();
  await write(lab.vm, 'd1', { offset: 3 * MiB, length: MiB, pattern: 0x51 });
  await write(lab.vm, 'd2', { offset: 0, length: 65536, pattern: 0x52 });
  const output = join(lab.dir, 'restored');
  const { stdout } = await execa(process.execPath, [program, lab.vm.socket, lab.target, output]);
  expect(stdout.split('\n')).toEqual([
    '2 disks, crash',
    expect.stringMatching(/^0 \d{4}-.*Z ok$/) as string,
    `d1 ${join(output, 'd1.qcow2')}`,
    `d2 ${join(output, 'd2.qcow2')}`,
  ]);
  for (const { id, file = '' } of lab.vm.options.disks) {
    await flush(lab.vm, id);
    await compareImages(file, join(output, `${id}.qcow2`));
  }
  // The image is there now, and nothing is overwritten.
  const again = await execa(process.execPath, [program, lab.vm.socket, lab.target, output], { reject: false });
  expect(again).toMatchObject({ exitCode: 1, stderr: expect.stringContaining('unsafe: ') as string });
});

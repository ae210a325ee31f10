import { join } from 'node:path';
import { execa } from 'execa';
import { expect, it } from 'vitest';
import { filesIn, photograph } from '../support/chains.js';
import { expectCli, PROGRAM, qmpbackup } from '../support/cli.js';
import { run } from '../support/lab/programs.js';
import { LONG_DISK, makeLongTarget } from '../support/long-chain.js';
import { patient } from '../support/patience.js';
import { labDir } from '../support/scenario.js';
import { startServe } from '../support/serving.js';

it('a process that may have few files open serves a chain by more daemons', async () => {
  const root = await labDir();
  const { flat } = await makeLongTarget(root, 90);
  const target = join(root, 'target');
  const limited = ['--nofile=230:230', process.execPath, PROGRAM, '--json', 'serve', '--target', target];
  const child = execa('prlimit', limited, { reject: false });
  let told = '';
  child.stdout.on('data', (chunk: Buffer) => (told += chunk.toString()));
  await expect.poll(() => told, { timeout: patient(20_000) }).toMatch(/\}\n$/);
  const { disks } = JSON.parse(told) as { readonly disks: readonly { readonly uri: string }[] };
  await run('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', disks[0]?.uri ?? '', flat]);
  child.kill('SIGINT');
  expect((await child).exitCode).toBe(0);
});

/** Far more than QEMU reads through at once: a chain of 1500 files of one disk. */
it('a chain of 1500 files is restored, verified and served', { timeout: patient(240_000) }, async () => {
  const root = await labDir();
  const { paths, flat } = await makeLongTarget(root, 1500);
  const target = join(root, 'target');
  const before = await photograph(target);
  const output = join(root, 'raw');
  const { stdout } = await expectCli(0, ['restore', '--target', target, '--output', output, '--format', 'raw']);
  expect(stdout).toContain('from 1500 files');
  await run('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', join(output, `${LONG_DISK}.raw`), flat]);
  const serving = await startServe(['--target', target]);
  await run('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', serving.disks[0]?.uri ?? '', flat]);
  expect(await serving.end()).toBe(0);
  const one = join(root, 'one');
  const merged = await expectCli(0, ['merge', '--target', target, '--disk', LONG_DISK, '--targetfile', one]);
  expect(merged.stdout).toContain('merged 1500 files');
  await run('qemu-img', ['compare', '-f', 'qcow2', '-F', 'raw', one, flat]);
  expect(await photograph(target)).toEqual(before);

  const whole = await expectCli(0, ['--json', 'verify', '--target', target, '--read-data'], {
    timeout: patient(120_000),
  });
  expect(whole.json<{ targets: unknown }>().targets).toMatchObject([
    { files: 1500, findings: [], read: { files: 1500 } },
  ]);
  await run('qemu-io', [
    '-c',
    'write -P 1 9M 64k',
    `json:{"driver":"qcow2","backing":null,"file":{"driver":"file","filename":"${paths[700]}"}}`,
  ]);
  for (const args of [
    ['restore', '--target', target, '--output', join(root, 'never')],
    ['serve', '--target', target],
  ]) {
    const refused = await qmpbackup(args, { timeout: patient(120_000) });
    expect([4, 13]).toContain(refused.exitCode);
    expect(`${refused.stdout}${refused.stderr}`).toContain('INC-10700.qcow2');
  }
  expect(await filesIn(root)).not.toContain('never');
});

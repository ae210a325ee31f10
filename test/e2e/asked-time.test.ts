import { join } from 'node:path';
import { expect, it } from 'vitest';
import { point } from '../support/builders.js';
import { expectSame, makeDisk, makeLab, record } from '../support/chains.js';
import { expectCli } from '../support/cli.js';
import { startServe } from '../support/serving.js';

it('a time names a point for restore, serve and verify; what is none is refused', async () => {
  const lab = await makeLab();
  const [full, inc] = ['FULL-100.qcow2', 'INC-101.qcow2'];
  const [first, second] = await makeDisk(lab, 'vda', [
    { file: full, io: ['write -P 1 0 1M'] },
    { file: inc, on: full, io: ['write -P 2 0 1M'] },
  ]);
  await record(lab, [
    point(0, [first!], { createdAt: '2026-11-20T10:00:00.500Z' }),
    point(1, [second!], { createdAt: '2026-11-21T10:00:00.000Z' }),
  ]);
  const of = ['--target', lab.target];
  for (const [at, file, name] of [
    ['2026-11-20 10:00:00Z', full, 'point 0'],
    ['2026-11-22', inc, 'point 1'],
  ] as const) {
    const output = join(lab.root, name);
    expect((await expectCli(0, ['restore', ...of, '--at', at, '--output', output])).stdout).toContain(name);
    await expectSame(join(output, 'vda.qcow2'), lab.flat('vda', file));
    const serving = await startServe([...of, '--at', at]);
    expect(serving.point).toBe(name);
    expect(await serving.end()).toBe(0);
    const { stdout } = await expectCli(0, ['verify', ...of, '--at', at]);
    expect(stdout).toContain(`1 point, ${file === full ? '1 file' : '2 files'} looked at`);
  }
  const output = ['--output', join(lab.root, 'out')];
  for (const [words, ...more] of [
    ['there is no point of 2026-11-20 10:00:00.499Z or before', '--at', '2026-11-20 10:00:00.499Z'],
    ['"tomorrow" is no time', '--at', 'tomorrow'],
    ['a time or a point, not both', '--at', '2026-11-20', '--point', '0'],
    ['vda=/a was given before', '--to', 'vda=/a', '--to', 'vda=/b'],
  ] as const) {
    expect((await expectCli(2, ['restore', ...of, ...output, ...more])).stderr).toContain(words);
  }
  expect((await expectCli(2, ['verify', ...of, '--repair', '--at', '2026-11-20'])).stderr).toContain(
    '--at names a part',
  );
});

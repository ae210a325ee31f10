import { join } from 'node:path';
import { execa } from 'execa';
import { describe, expect, it } from 'vitest';
import { MiB } from '../support/builders.js';
import { expectCli, PROGRAM, startCli } from '../support/cli.js';
import { checkedLines } from '../support/json-answer.js';
import { write } from '../support/lab/guest-writes.js';
import { mountHanging } from '../support/mounts.js';
import { scenario, type Scenario } from '../support/scenario.js';

const LINES = '--json=lines';

function backup(lab: Scenario, ...more: readonly string[]): readonly string[] {
  return [LINES, '--socket', lab.vm.socket, 'backup', '--target', lab.target, ...more];
}

describe('--json=lines', () => {
  it('tells progress, what is said, and the answer, each in a line as its schema says', async () => {
    const lab = await scenario([{ id: 'd1', format: 'raw' }]);
    await write(lab.vm, 'd1', { offset: 0, length: 8 * MiB, pattern: 0x61 });
    const slowly = ['--speed-limit', '20M', '--progress-interval', '0.2', '--quiet'];
    const { stdout } = await startCli(backup(lab, ...slowly));
    const lines = checkedLines(String(stdout));
    expect(lines.filter(({ type }) => type === 'progress').length).toBeGreaterThan(1);
    expect(lines.find(({ type }) => type === 'progress')).toMatchObject({ unit: 'bytes', parts: [{ name: 'd1' }] });
    expect(lines).toContainEqual(expect.objectContaining({ type: 'log', level: 'warning', code: 'bitmap-not-stored' }));
    expect(lines).toContainEqual(expect.objectContaining({ type: 'log', level: 'info', code: null }));
    expect(lines.at(-1)).toMatchObject({ type: 'answer', answer: { command: 'backup', point: { number: 0 } } });

    const output = join(lab.dir, 'out');
    const restored = checkedLines(
      (await expectCli(0, ['restore', LINES, '-t', lab.target, '--output', output])).stdout,
    );
    expect(restored).toContainEqual(expect.objectContaining({ type: 'progress', unit: 'percent' }));
    expect(restored.at(-1)).toMatchObject({ type: 'answer', answer: { command: 'restore' } });
  });

  it('ends with the error of a run that failed, or of options that are wrong', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    const unsafe = checkedLines((await expectCli(13, backup(lab, '--level', 'inc'))).stdout);
    expect(unsafe.at(-1)).toMatchObject({ type: 'error', error: { code: 'unsafe', exitCode: 13 } });
    const usage = checkedLines((await expectCli(2, [LINES, 'list'])).stdout);
    expect(usage).toMatchObject([{ type: 'error', error: { code: 'usage' } }]);
    // The value only follows =, and is one of two.
    await expectCli(10, ['--json', 'list', '-t', lab.dir]);
    expect((await expectCli(2, ['--json=all', 'list', '-t', lab.dir])).stderr).toContain('document, lines');
  });

  it('of a process of its own, for a target on a network, comes once and whole', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    const target = join(lab.dir, 'network');
    await mountHanging(target);
    const lines = checkedLines((await expectCli(0, [...backup({ ...lab, target })])).stdout);
    expect(lines.filter(({ type }) => type === 'answer')).toHaveLength(1);
  });

  it('does not end a run whose reader is gone, or does not read', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    const program = [process.execPath, PROGRAM, '--debug', ...backup(lab)];
    for (const reader of ['head -c 1 >/dev/null', 'sleep 5']) {
      const ended = await execa('bash', ['-c', `set -o pipefail; "$@" 2>/dev/null | ${reader}`, 'bash', ...program], {
        reject: false,
        timeout: 120_000,
      });
      expect(ended.exitCode).toBe(0);
    }
    await lab.expectChainEqualsDisks();
    await lab.expectNothingLeft(2);
    const full = await execa('sh', ['-c', '"$@" >/dev/full', 'sh', ...program], { reject: false, timeout: 120_000 });
    expect(full).toMatchObject({ exitCode: 1, stderr: expect.stringContaining('no space left') as string });
  });
});

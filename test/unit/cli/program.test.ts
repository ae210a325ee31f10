import { describe, expect, it } from 'vitest';
import { buildProgram } from '../../../src/cli/program.js';

async function verbsFor(...args: readonly string[]): Promise<readonly string[]> {
  const program = await buildProgram(args, new AbortController().signal, () => undefined);
  return program.commands.flatMap((each) => [each.name(), ...each.aliases()]);
}

describe('the verbs of the program', () => {
  it('are all there unless the arguments can only mean a backup', async () => {
    const all = await verbsFor();
    expect(all).toEqual(expect.arrayContaining(['backup', 'restore', 'rebase', 'commit']));
    expect(await verbsFor('--socket', '/run/vm.qmp', 'backup', '--target', '/backup')).toEqual(['backup']);
    for (const other of [...all.filter((verb) => verb !== 'backup'), 'help', '--help', '-h']) {
      expect(await verbsFor('--target', 'backup', other), other).toEqual(all);
    }
  });
});

import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { expectCli } from '../support/cli.js';
import { compareImages } from '../support/lab/compare.js';
import { flush } from '../support/lab/guest-writes.js';
import { labDir, scenario, type Scenario, writeBoth } from '../support/scenario.js';

// Two VMs whose disks have the same names, in one folder; and a part of a point.

async function vm(name: string, pattern: number): Promise<Scenario> {
  const lab = await scenario(undefined, { name });
  await writeBoth(lab, 1, pattern, 3);
  await lab.backup('full');
  for (const disk of ['d1', 'd2']) await flush(lab.vm, disk);
  return lab;
}

const restore = (lab: Scenario, output: string, ...more: string[]): readonly string[] => [
  ...['restore', '-t', lab.target, '--output', output, ...more],
];

describe('restore --file-name', () => {
  it('puts two VMs into one folder, each with its own description', async () => {
    const [one, two] = [await vm('one', 0x11), await vm('two', 0x22)];
    const output = join(await labDir(), 'both');
    for (const lab of [one, two]) await expectCli(0, restore(lab, output, '--file-name', '{vm}-{disk}'));
    expect((await readdir(output)).toSorted()).toEqual([
      ...['one-d1.qcow2', 'one-d2.qcow2', 'one-machine.json'],
      ...['two-d1.qcow2', 'two-d2.qcow2', 'two-machine.json'],
    ]);
    for (const [name, lab] of [['one', one] as const, ['two', two] as const]) {
      for (const disk of lab.vm.options.disks)
        await compareImages(join(output, `${name}-${disk.id}.qcow2`), disk.file!);
      const text = await readFile(join(output, `${name}-machine.json`), 'utf8');
      const machine = JSON.parse(text) as { name: string; disks: { file: string }[] };
      expect(machine).toMatchObject({ name, disks: [{ file: `${name}-d1.qcow2` }, { file: `${name}-d2.qcow2` }] });
    }
  });

  it('and several points of one; refused before anything is written where a name is there, or is none', async () => {
    const lab = await vm('one', 0x11);
    await writeBoth(lab, 9, 0x33);
    await lab.backup('inc');
    const output = join(lab.dir, 'points');
    const named = ['--file-name', '{disk}.{point}'];
    for (const point of ['0', '1']) await expectCli(0, restore(lab, output, ...named, '--point', point));
    const files = (await readdir(output)).toSorted();
    expect(files).toEqual(['d1.0.qcow2', 'd1.1.qcow2', 'd2.0.qcow2', 'd2.1.qcow2', 'machine.0.json', 'machine.1.json']);
    const refusals: readonly (readonly [number, string, string])[] = [
      [13, '{disk}.{point}', 'exists already'],
      [2, '../{disk}', 'no plain file name'],
      [2, '{vm}', 'd1 and d2 the same name'],
      [2, '{what}-{disk}', '{what} stands for nothing'],
    ];
    for (const [code, template, words] of refusals) {
      expect((await expectCli(code, restore(lab, output, '--file-name', template))).stderr).toContain(words);
      expect((await readdir(output)).toSorted()).toEqual(files);
    }
  });
});

describe('restore --include and --exclude', () => {
  it('take the names that backup takes, and say what is left out', async () => {
    const lab = await vm('one', 0x11);
    const file = lab.vm.options.disks[0]!.file!;
    const excluded = await expectCli(0, restore(lab, join(lab.dir, 'a'), '-e', file));
    expect(excluded.stderr).toContain('d1: left out, excluded by --exclude');
    expect((await readdir(join(lab.dir, 'a'))).toSorted()).toEqual(['d2.qcow2', 'machine.json']);
    const included = await expectCli(0, ['--json', ...restore(lab, join(lab.dir, 'b'), '-i', 'd1.qcow2')]);
    expect(included.json()).toMatchObject({
      disks: [{ disk: 'd1' }],
      leftOut: [{ name: 'd2', reason: 'not named by --include' }],
    });
    await compareImages(join(lab.dir, 'b', 'd1.qcow2'), file);
    const unknown = await expectCli(2, restore(lab, join(lab.dir, 'c'), '-i', 'd9'));
    expect(unknown.stderr).toContain('--include d9: point 0 has no disk d9');
  });
});

describe('short names of options', () => {
  it('are those of backup for every command that has the option', async () => {
    const lab = await vm('one', 0x11);
    const socket = ['--socket', lab.vm.socket];
    await expectCli(0, ['list', '-t', lab.target]);
    await expectCli(0, [...socket, 'doctor', '-t', lab.target]);
    await expectCli(0, [...socket, 'recover', '-t', lab.target]);
    await expectCli(0, [...socket, 'cleanup', '--remove-bitmaps', '--stale', '-t', lab.target]);
    for (const command of ['backup', 'list', 'restore', 'recover', 'doctor', 'cleanup', 'import']) {
      expect((await expectCli(0, [command, '--help'])).stdout).toContain('-t, --target <dir>');
    }
  });
});

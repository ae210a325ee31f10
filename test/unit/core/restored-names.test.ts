import { describe, expect, it } from 'vitest';
import { restoredNames } from '../../../src/core/restored-names.js';

const parts = { vm: 'web 1', point: '3' };
const refusal = (message: string): Error =>
  expect.objectContaining({ code: 'usage', message: expect.stringContaining(message) as string }) as Error;

describe('the names of restored files', () => {
  it.each<[string | undefined, string, string]>([
    [undefined, 'vda.qcow2', 'machine.json'],
    ['{disk}', 'vda.qcow2', 'machine.json'],
    ['{vm}-{disk}', 'web_1-vda.qcow2', 'web_1-machine.json'],
    ['{vm}_{point}_{disk}', 'web_1_3_vda.qcow2', 'web_1_3_machine.json'],
    ['{disk}@{disk}', 'vda@vda.qcow2', 'machine@machine.json'],
    ['root', 'root.qcow2', 'root-machine.json'],
  ])('%s', (template, image, machine) => {
    const names = restoredNames(parts, ['vda'], template);
    expect([names.image('vda'), names.machine]).toEqual([image, machine]);
  });

  it.each<[string, string]>([
    ['../{disk}', 'no plain file name'],
    ['a/{disk}', 'no plain file name'],
    ['.{disk}', 'no plain file name'],
    ['-{disk}', 'no plain file name'],
    ['', 'no plain file name'],
    ['{disk}\n', 'no plain file name'],
    ['x'.repeat(250), 'no plain file name'],
    ['{Disk}', '{Disk} stands for nothing'],
    ['{}-{disk}', '{} stands for nothing'],
    ['{vm}', 'it gives vda and vdb the same name'],
  ])('%j is refused', (template, why) => {
    expect(() => restoredNames(parts, ['vda', 'vdb'], template)).toThrow(refusal(why));
  });

  it('a placeholder without a name is refused, and no name leads elsewhere', () => {
    expect(() => restoredNames({ vm: null, point: null }, ['vda'], '{vm}-{disk}')).toThrow(refusal('has no name'));
    expect(() => restoredNames({ vm: null, point: null }, ['vda'], '{point}-{disk}')).toThrow(refusal('no numbered'));
    expect(restoredNames({ vm: '../../etc', point: null }, ['vda'], '{vm}-{disk}').image('vda')).toBe(
      '_.._.._etc-vda.qcow2',
    );
  });
});

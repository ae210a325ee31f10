import fc from 'fast-check';
import { expect, it } from 'vitest';
import { pageName } from '../../../../src/report/html/page-name.js';

it('is the name of a VM where a configuration has each name once', () => {
  expect(pageName('web1', null)).toBe('vm-web1');
  expect(pageName('Bücher', null)).toBe('vm-Bücher');
});

it('tells VMs of one name apart by their targets', () => {
  const [one, other] = [pageName('web1', '/a'), pageName('web1', '/b')];
  expect(one).toMatch(/^vm-web1~[0-9a-f]{12}$/);
  expect(other).toMatch(/^vm-web1~[0-9a-f]{12}$/);
  expect(one).not.toBe(other);
});

it('is another for each VM, and one name of a file, whatever VMs are called', () => {
  // Of which the names of files can hold little, in all ways to meet.
  const letters = fc.constantFrom('a', ' ', '_', '~', '/', '\n', '.', 'é', '6');
  const vms = fc.oneof(fc.string({ unit: letters, maxLength: 4 }), fc.string({ unit: 'binary' }));
  const targets = fc.option(fc.constantFrom('/a', '/b'));
  const pair = fc.tuple(vms, targets);
  fc.assert(
    fc.property(pair, pair, ([vm, target], [otherVm, otherTarget]) => {
      const name = pageName(vm, target);
      expect(name).toMatch(/^vm-[^/\0]+$/);
      expect(Buffer.byteLength(`${name}.html.tmp`)).toBeLessThan(255);
      // By names as they were made of one another, too.
      for (const [third, at] of [
        [otherVm, otherTarget],
        [name.slice(3), target],
        [name.slice(3), null],
      ] as const) {
        if (third !== vm || at !== target) expect(pageName(third, at)).not.toBe(name);
      }
    }),
    { numRuns: 300 },
  );
});

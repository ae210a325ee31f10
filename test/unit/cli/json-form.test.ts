import { expect, it } from 'vitest';
import { jsonFormOf, withJsonForm } from '../../../src/cli/json-form.js';

it('--json has its value after = only', () => {
  expect(withJsonForm(['--json', 'list'])).toEqual(['--json=document', 'list']);
  expect(withJsonForm(['list', '--json=lines'])).toEqual(['list', '--json=lines']);
  expect(withJsonForm(['import', '--', '--json'])).toEqual(['import', '--', '--json']);
});

it.each([
  [['list'], null],
  [['--json', 'list'], 'document'],
  [['--json', 'list', '--json=lines'], 'lines'],
  [['--json=nothing', 'list'], null],
  [['import', '--', '--json'], null],
])('%j asks for %s', (args, form) => {
  expect(jsonFormOf(args)).toBe(form);
});

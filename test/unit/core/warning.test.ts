import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { WARNING_CODES } from '../../../src/core/warning.js';

it('docs/json.md tells every code of a warning, with what it means, and no other', () => {
  const page = readFileSync(join(import.meta.dirname, '../../../docs/json.md'), 'utf8');
  const section = page.slice(page.indexOf('## Warnings'), page.indexOf('## An error'));
  const rows = [...section.matchAll(/^\| `([a-z-]+)` +\| (.*?) +\|$/gm)].map(([, code, meaning]) => [code, meaning]);
  expect(Object.fromEntries(rows.slice(1))).toEqual(WARNING_CODES);
});

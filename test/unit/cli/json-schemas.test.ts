import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { jsonSchemaFiles, SCHEMA_FOLDER } from '../../../scripts/json-schema-files.js';

const ROOT = join(import.meta.dirname, '../../..');
const files = await jsonSchemaFiles();

it.each(files)('$path is what the schema in src says; else: npm run schemas', ({ path, text }) => {
  expect(readFileSync(join(ROOT, path), 'utf8')).toBe(text);
});

it('there is no other file beside them', () => {
  const there = readdirSync(join(ROOT, SCHEMA_FOLDER)).map((name) => `${SCHEMA_FOLDER}/${name}`);
  expect(there.toSorted()).toEqual(files.map(({ path }) => path).toSorted());
});

it('the program loads none of the schemas, only their types', () => {
  const files = readdirSync(join(ROOT, 'src'), { recursive: true, encoding: 'utf8' });
  const loading = files.filter((name) => {
    if (!name.endsWith('.ts') || name.startsWith(join('cli', 'documents', 'schemas'))) return false;
    return /^(import|export) (?!type ).*\/schemas\/|import\('.*\/schemas\//m.test(
      readFileSync(join(ROOT, 'src', name), 'utf8'),
    );
  });
  expect(loading).toEqual([]);
});

it('every field is described', () => {
  const without: string[] = [];
  const visit = (value: unknown, path: string): void => {
    if (typeof value !== 'object' || value === null) return;
    if ('properties' in value) {
      for (const [name, field] of Object.entries(value.properties as Record<string, object>)) {
        if (!isDescribed(field)) without.push(`${path}.${name}`);
      }
    }
    for (const [key, inner] of Object.entries(value)) visit(inner, `${path}.${key}`);
  };
  for (const { path, text } of files) visit(JSON.parse(text), path);
  expect(without).toEqual([]);
});

/** By words of its own, or by those of each kind that it may be of. */
function isDescribed(field: object): boolean {
  if ('description' in field) return true;
  const kinds = ('anyOf' in field && field.anyOf) || ('oneOf' in field && field.oneOf);
  return Array.isArray(kinds) && kinds.every((each: object) => isDescribed(each) || isNull(each));
}

function isNull(schema: object): boolean {
  return 'type' in schema && schema.type === 'null';
}

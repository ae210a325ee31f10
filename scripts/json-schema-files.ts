import { toJsonSchema } from '@valibot/to-json-schema';
import { format, resolveConfig } from 'prettier';
import { DOCUMENT_SCHEMAS } from '../src/cli/documents/schemas/index.js';

/** The JSON Schema files that tell users what each command prints under `--json`, made from the schemas of the documents. */
export const SCHEMA_FOLDER = 'docs/schemas';

export interface SchemaFile {
  readonly path: string;
  readonly text: string;
}

export function jsonSchemaFiles(): Promise<readonly SchemaFile[]> {
  return Promise.all(
    Object.entries(DOCUMENT_SCHEMAS).map(async ([name, schema]) => {
      const path = `${SCHEMA_FOLDER}/${name}.schema.json`;
      // It makes the types of TypeScript readonly, and says nothing of the document.
      const json = toJsonSchema(schema, { ignoreActions: ['readonly'] });
      return { path, text: await format(JSON.stringify(json), { ...(await resolveConfig(path)), parser: 'json' }) };
    }),
  );
}

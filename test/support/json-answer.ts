import * as v from 'valibot';
import { DOCUMENT_SCHEMAS } from '../../src/cli/documents/schemas/index.js';

/** What `--json` printed. Throws unless it is one document with exactly the fields that the schema of its command has. */
export function checkedAnswer(stdout: string): unknown {
  const answer: unknown = JSON.parse(stdout);
  const result = v.safeParse(schemaFor(answer), answer);
  if (result.success) return answer;
  const problems = result.issues.map((issue) => `${v.getDotPath(issue) ?? 'document'}: ${issue.message}`);
  throw new Error(`the answer is not as docs/schemas says:\n${problems.join('\n')}\n${stdout}`);
}

function schemaFor(answer: unknown): v.GenericSchema {
  const { command } = v.parse(v.looseObject({ command: v.optional(v.string()) }), answer);
  if (command === undefined) return DOCUMENT_SCHEMAS.error;
  const schemas: Readonly<Record<string, v.GenericSchema>> = DOCUMENT_SCHEMAS;
  const schema = Object.hasOwn(schemas, command) ? schemas[command] : undefined;
  if (schema && command !== 'error') return schema;
  throw new Error(`an answer of ${command}, which no schema describes`);
}

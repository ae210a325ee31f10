import * as v from 'valibot';
import type { LineDocument } from '../../src/cli/documents/schemas/line.js';
import { DOCUMENT_SCHEMAS } from '../../src/cli/documents/schemas/index.js';

/** What `--json` printed. Throws unless it is one document with exactly the fields that the schema of its command has. */
export function checkedAnswer(stdout: string): unknown {
  const answer: unknown = JSON.parse(stdout);
  const result = v.safeParse(schemaFor(answer), answer);
  if (result.success) return answer;
  const problems = result.issues.map((issue) => `${v.getDotPath(issue) ?? 'document'}: ${issue.message}`);
  throw new Error(`the answer is not as docs/schemas says:\n${problems.join('\n')}\n${stdout}`);
}

/** What `--json=lines` printed: each line as its schema says, and the last one the answer or the error. */
export function checkedLines(stdout: string): readonly LineDocument[] {
  const lines = stdout.trimEnd().split('\n');
  return lines.map((text, index) => {
    const result = v.safeParse(DOCUMENT_SCHEMAS.line, JSON.parse(text));
    if (!result.success) throw new Error(`a line is not as docs/schemas says: ${result.issues[0].message}\n${text}`);
    const line = result.output;
    if (line.type === 'answer') checkedAnswer(JSON.stringify(line.answer));
    const ends = line.type === 'answer' || line.type === 'error';
    if (ends !== (index === lines.length - 1)) throw new Error(`not one ending, and that last:\n${stdout}`);
    return line;
  });
}

function schemaFor(answer: unknown): v.GenericSchema {
  const { command } = v.parse(v.looseObject({ command: v.optional(v.string()) }), answer);
  if (command === undefined) return DOCUMENT_SCHEMAS.error;
  const schemas: Readonly<Record<string, v.GenericSchema>> = DOCUMENT_SCHEMAS;
  const schema = Object.hasOwn(schemas, command) ? schemas[command] : undefined;
  if (schema && command !== 'error' && command !== 'line') return schema;
  throw new Error(`an answer of ${command}, which no schema describes`);
}

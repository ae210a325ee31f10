import { JSON_SCHEMA } from './envelope.js';
import type { ErrorDocument } from './schemas/error.js';

export function errorDocument({ code, exitCode, message, hint }: ErrorDocument['error']): ErrorDocument {
  return { schema: JSON_SCHEMA, error: { code, exitCode, message, hint } };
}

import { mkdir, writeFile } from 'node:fs/promises';
import { jsonSchemaFiles, SCHEMA_FOLDER } from './json-schema-files.js';

/** `npm run schemas`: writes `docs/schemas`. A unit test fails where these files are not up to date. */
await mkdir(SCHEMA_FOLDER, { recursive: true });
for (const { path, text } of await jsonSchemaFiles()) await writeFile(path, text);

import * as v from 'valibot';
import { QmpBackupError } from '../errors.js';
import { type Catalog, readCatalogValue } from './catalog.js';
import type { ExportPart } from './export-part.js';
import { componentSchema } from './point.js';

/**
 * The first member of an export says all that follows; the last one proves it. What an export says is checked as if a stranger
 * had written it.
 */
export const MANIFEST_NAME = 'export.json';
export const SEAL_NAME = 'seal.json';

const FORMAT = 'qmpbackup export';
const EXPORT_SCHEMA = 1;

const manifest = v.object({
  format: v.literal(FORMAT),
  schema: v.literal(EXPORT_SCHEMA),
  order: v.array(v.string()),
  beneath: v.array(v.object({ disk: componentSchema, file: componentSchema, point: v.string() })),
  catalog: v.unknown(),
});

const seal = v.object({
  /** Of every byte of the archive before the seal; hexadecimal. */
  sha256: v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/)),
});

export function manifestText({ catalog, order, beneath }: ExportPart): string {
  return `${JSON.stringify({ format: FORMAT, schema: EXPORT_SCHEMA, order, beneath, catalog })}\n`;
}

export function sealText(sha256: string): string {
  return `${JSON.stringify({ sha256 })}\n`;
}

/** @throws QmpBackupError `unsafe` for what is no manifest, or one of a newer version */
export function readManifest(text: string): ExportPart {
  const value = parsed(text);
  const version = v.safeParse(v.looseObject({ format: v.literal(FORMAT), schema: v.number() }), value);
  if (!version.success) throw refused('its first member does not say that it is one');
  if (version.output.schema > EXPORT_SCHEMA)
    throw newer(`its schema is ${version.output.schema}, this version knows ${EXPORT_SCHEMA}`);
  const found = v.safeParse(manifest, value, { abortEarly: true });
  if (!found.success) throw refused(inWords(found.issues[0]));
  const { order, beneath } = found.output;
  const reading = readCatalogValue(found.output.catalog);
  if (!reading.ok) throw reading.newer ? newer(reading.why) : refused(`its catalog is damaged: ${reading.why}`);
  refuseDisorder(reading.catalog, order);
  return { catalog: reading.catalog, order, beneath };
}

function refuseDisorder({ points }: Catalog, order: readonly string[]): void {
  const places = points.map(({ id }) => order.indexOf(id));
  if (new Set(order).size !== order.length || places.some((place, index) => place <= (places[index - 1] ?? -1))) {
    throw refused('its points are not in order');
  }
}

/** @throws QmpBackupError `damaged` where it is not of these bytes */
export function refuseWrongSeal(text: string, sha256: string): void {
  const found = v.safeParse(seal, parsed(text));
  if (found.success && found.output.sha256 === sha256) return;
  throw new QmpBackupError('damaged', 'the archive was damaged on its way: its bytes are not those that were sealed', {
    hint: 'Nothing of it was taken in. Run export and import again.',
  });
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    throw refused(`a part of it is no JSON: ${error.message}`);
  }
}

function inWords(issue: v.BaseIssue<unknown>): string {
  const path = v.getDotPath(issue);
  return path === null ? issue.message : `${path}: ${issue.message}`;
}

function refused(why: string): QmpBackupError {
  return new QmpBackupError('unsafe', `the archive is none that export has written: ${why}`, {
    hint: 'Give what "qmpbackup export --output FILE" has written, as it is.',
  });
}

function newer(why: string): QmpBackupError {
  return new QmpBackupError('unsafe', `the archive was written by a newer qmpbackup: ${why}`, {
    hint: 'Use that version here, too.',
  });
}

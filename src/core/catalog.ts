import * as v from 'valibot';
import { isPlainLine } from './plain-line.js';
import type { ReadOnly } from './read-only.js';
import { bitmapNameSchema, componentSchema, type Point, pointSchema, textSchema } from './point.js';

/**
 * The catalog: the only authority on what is a valid point. `catalog.json` of a target holds exactly this shape;
 * sizes are bytes, times are ISO 8601 in UTC. Names in it are single path components: nothing in a catalog can lead
 * outside its folder.
 */
export const CATALOG_SCHEMA = 2;

/** What a catalog says that has nothing which earlier versions would drop when they write it again: see `schemaOf`. */
const FIRST_SCHEMA = 1;

/** A point does not change: what was found right when it was read is not checked again, and is written as it was read. */
const checkedPoints = new WeakSet<object>();
const plainLines = new WeakMap<object, string>();
const checkedPoint = v.custom<Point>(() => true);
const pointOnce = v.lazy((value) =>
  typeof value === 'object' && value !== null && checkedPoints.has(value) ? checkedPoint : pointSchema,
);

const catalog = v.pipe(
  v.object({
    schema: v.picklist([FIRST_SCHEMA, CATALOG_SCHEMA]),
    tool: v.string(),
    targetId: v.pipe(v.string(), v.regex(/^[0-9a-f]{16}$/)),
    createdAt: v.string(),
    vm: v.object({ uuid: textSchema, name: textSchema, label: textSchema }),
    /** In the order in which they were sealed. */
    points: v.array(pointOnce),
    /** Bitmaps of points that left the catalog: ours to remove. */
    retired: v.array(bitmapNameSchema),
    /** Files of points that left the catalog and that may not be removed yet; absent where there is none. */
    retiredFiles: v.optional(v.array(v.object({ folder: componentSchema, file: componentSchema }))),
  }),
  v.rawCheck(({ dataset, addIssue }) => {
    if (!dataset.typed) return;
    const files = new Set<string>();
    for (const { disk, file, state } of dataset.value.points.flatMap((each) => each.disks)) {
      if (state === 'merged') continue;
      const key = `${disk}/${file}`;
      if (files.has(key)) addIssue({ message: `${key} is in it twice` });
      files.add(key);
    }
  }),
);

export type Catalog = ReadOnly<Omit<v.InferOutput<typeof catalog>, 'points'>> & { readonly points: readonly Point[] };

export type RetiredFile = NonNullable<Catalog['retiredFiles']>[number];

/** That of a target which has no point yet. */
export function newCatalog(begun: Pick<Catalog, 'tool' | 'targetId' | 'createdAt' | 'vm'>): Catalog {
  return { schema: FIRST_SCHEMA, ...begun, points: [], retired: [] };
}

/** What an earlier version would drop in silence, such as pins, is kept from it: it refuses a schema that it does not know. */
export function schemaOf({ points, retiredFiles }: Pick<Catalog, 'points' | 'retiredFiles'>): Catalog['schema'] {
  const isMarked = points.some(({ pinned, note }) => pinned !== undefined || note !== undefined);
  const isLinked = points.some(({ disks }) => disks.some(({ link }) => link !== undefined));
  return isMarked || isLinked || retiredFiles !== undefined ? CATALOG_SCHEMA : FIRST_SCHEMA;
}

export type CatalogReading =
  | { readonly ok: true; readonly catalog: Catalog }
  /** `newer`: written by a later version of the tool, whose schema we do not know. */
  | { readonly ok: false; readonly newer: boolean; readonly why: string };

/** Checks a parsed `catalog.json`; never throws. */
export function readCatalogValue(value: unknown): CatalogReading {
  const schema = v.safeParse(v.looseObject({ schema: v.number(), tool: v.optional(v.unknown()) }), value);
  if (schema.success && schema.output.schema > CATALOG_SCHEMA) {
    return {
      ok: false,
      newer: true,
      why: `its schema is ${schema.output.schema}, this version knows ${CATALOG_SCHEMA}${writtenBy(schema.output.tool)}`,
    };
  }
  const result = v.safeParse(catalog, value, { abortEarly: true });
  if (result.success) {
    for (const each of result.output.points) checkedPoints.add(each);
    return { ok: true, catalog: result.output };
  }
  const [first] = result.issues;
  const path = v.getDotPath(first);
  return { ok: false, newer: false, why: path === null ? first.message : `${path}: ${first.message}` };
}

/**
 * Checks the text of a `catalog.json`.
 *
 * @throws SyntaxError where it is no JSON
 */
export function readCatalogText(text: string): CatalogReading {
  const { head, points } = partsOf(text) ?? {};
  return readCatalogValue(head && points ? { ...head, points: points.map(pointOf) } : JSON.parse(text));
}

const BEGIN = '"points":[\n';
const END = '\n]}\n';
const BETWEEN = ',\n';

/** A line for each point: quick to read and to write at any length, and `diff` shows what a run added. */
export function catalogText({ points, ...rest }: Catalog): string {
  const text = points.map((point) => plainLines.get(point) ?? JSON.stringify(point)).join(BETWEEN);
  return `${JSON.stringify(rest).slice(0, -1)},${BEGIN}${text}${END}`;
}

/** Of a text that `catalogText` made; undefined for others, whose points need not be told apart. */
function partsOf(text: string): { readonly head: object; readonly points: readonly string[] } | undefined {
  const begin = text.indexOf(BEGIN);
  if (begin < 0 || !text.endsWith(END)) return undefined;
  const head = JSON.parse(`${text.slice(0, begin)}"points":[]}`) as object;
  const body = text.slice(begin + BEGIN.length, -END.length);
  return { head, points: body === '' ? [] : body.split(BETWEEN) };
}

function pointOf(line: string): object {
  const point = JSON.parse(line) as object;
  if (isPlainLine(line)) {
    checkedPoints.add(point);
    plainLines.set(point, line);
  }
  return point;
}

function writtenBy(tool: unknown): string {
  return typeof tool === 'string' && /^qmpbackup [\w.+-]{1,40}$/.test(tool) ? `; ${tool} wrote it` : '';
}

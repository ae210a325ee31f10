import { DIGEST_METHODS, type PieceDigest } from './pieces.js';
import type { DefinitionFile, LackedDisk, Point, PointDefinition, PointDisk } from './point.js';

/**
 * The catalog's schema of a point once more, as a pattern of the line that a point is written as: every run reads every point of a
 * chain, and the schema takes 35 ms for 500 points of two disks, this 2. It says only yes or no: what is refused here goes through the
 * schema, which says why. A test holds the two together.
 *
 * What is rare has no pattern, and goes through the schema, too: fields in another order, the image of a FULL, a machine that tells
 * of its hardware, a pinned point, a note, a `suspect` file or one with a `link`.
 */
type Patterns<T> = { readonly [K in keyof T]-?: string };

const TEXT = String.raw`"(?:[^"\\\x00-\x1f]|\\.)*"`;
const FLAG = '(?:true|false)';
/** Up to where every integer is one, in numbers and in text. */
const COUNT = String.raw`(?:0|[1-9]\d{0,14})`;
const AMOUNT = String.raw`${COUNT}(?:\.\d+)?`;
const DIGEST = '"[0-9a-f]{64}"';
const COMPONENT = '[A-Za-z0-9_][A-Za-z0-9._+:@=-]{0,254}';
const NAME = `"${COMPONENT}"`;
const LEVEL = oneOf('full', 'inc', 'diff', 'copy');

const PIECES: Patterns<Omit<PieceDigest, 'method'>> = {
  // From 100 000 on: pieces that are smaller go through the schema.
  bytes: String.raw`[1-9]\d{5,14}`,
  sha256: DIGEST,
};

const pieces = optional('pieces', object(PIECES, optional('method', oneOf(...DIGEST_METHODS))));

const DISK: Patterns<Omit<PointDisk, 'suspect' | 'pieces' | 'link' | 'compared'>> = {
  disk: NAME,
  level: LEVEL,
  reason: TEXT,
  state: oneOf('whole', 'merging', 'merged'),
  file: NAME,
  parent: orNull(NAME),
  bitmap: orNull(
    object<NonNullable<PointDisk['bitmap']>>({ name: String.raw`"[^"\\\x00-\x1f]{0,1023}"`, persistent: FLAG }),
  ),
  virtualSize: COUNT,
  plaintextOfEncrypted: FLAG,
  source: object<PointDisk['source']>({
    device: orNull(TEXT),
    qdev: orNull(TEXT),
    node: orNull(TEXT),
    file: TEXT,
    format: TEXT,
    image: 'null',
  }),
  size: COUNT,
  allocated: COUNT,
  mtimeMs: AMOUNT,
  sha256: orNull(DIGEST) + pieces,
  changed: COUNT,
  durationMs: AMOUNT,
  compressed: FLAG,
};

const disk = object(DISK, optional('compared', 'true'));

const DEFINITION: Patterns<PointDefinition> = {
  files: listOf(
    object<DefinitionFile>({
      kind: oneOf('domain', 'live', 'checkpoint', 'nvram', 'tpm'),
      file: NAME,
      path: orNull(`"${COMPONENT}(?:/${COMPONENT})*"`),
      size: COUNT,
      sha256: DIGEST,
    }),
  ),
  autostart: orNull(FLAG),
  missing: listOf(TEXT),
};

const LACKED: Patterns<LackedDisk> = { disk: TEXT, reason: TEXT, kind: oneOf('rule', 'failed', 'request') };

const POINT: Patterns<Omit<Point, 'definition' | 'lacks' | 'pinned' | 'note'>> = {
  id: TEXT,
  chain: orNull(TEXT),
  number: COUNT,
  level: LEVEL,
  createdAt: TEXT,
  consistency: oneOf('filesystem', 'crash', 'offline'),
  vmStatus: TEXT,
  machine: object<Omit<Point['machine'], 'hardware'>>({
    name: orNull(TEXT),
    uuid: orNull(TEXT),
    qemuVersion: TEXT,
    type: orNull(TEXT),
    memory: orNull(COUNT),
    cpus: orNull(COUNT),
  }),
  disks: `\\[${disk}(?:,${disk})*\\]`,
  removed: listOf(NAME),
};

const PLAIN = new RegExp(
  `^${object(POINT, optional('lacks', listOf(object(LACKED))) + optional('definition', object(DEFINITION)))}$`,
);

/** Whether a line, where it is JSON at all, is a point with just the fields that the schema knows, and as it demands them. */
export function isPlainLine(line: string): boolean {
  return PLAIN.test(line);
}

/** Its fields in the order of the table, which is that of the schema; `more` come last. */
function object<T>(fields: Patterns<T>, more = ''): string {
  const each = Object.entries<string>(fields).map(([key, pattern]) => `"${key}":${pattern}`);
  return `\\{${each.join(',')}${more}\\}`;
}

/** A field that may be there, behind others. */
function optional(key: string, pattern: string): string {
  return `(?:,"${key}":${pattern})?`;
}

function listOf(pattern: string): string {
  return `\\[(?:${pattern}(?:,${pattern})*)?\\]`;
}

function oneOf(...texts: readonly string[]): string {
  return `"(?:${texts.join('|')})"`;
}

function orNull(pattern: string): string {
  return `(?:null|${pattern})`;
}

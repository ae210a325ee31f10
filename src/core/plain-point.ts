import { isComponent } from './names.js';
import { isNote } from './note.js';
import { DIGEST_METHODS, type PieceDigest } from './pieces.js';
import type { DefinitionFile, LackedDisk, Point, PointDefinition, PointDisk } from './point.js';

/**
 * The catalog's schema of a point once more, as quick tests: every run reads every point of a chain, and the schema takes
 * 35 ms for 500 points of two disks, this 12. It says only yes or no: what is refused here goes through the schema,
 * which says why. A test holds the two together.
 */
type Test = (value: unknown) => boolean;
type Tests<T> = { readonly [K in keyof T]-?: Test };

const isText: Test = (value) => typeof value === 'string';
const isFlag: Test = (value) => typeof value === 'boolean';
const isNumber: Test = (value) => typeof value === 'number' && !Number.isNaN(value);
const isCount: Test = (value) => Number.isInteger(value) && (value as number) >= 0;
const isDigest: Test = (value) => typeof value === 'string' && /^[0-9a-f]{64}$/.test(value);
const isName: Test = (value) => typeof value === 'string' && isComponent(value);
const isLevel = oneOf('full', 'inc', 'diff', 'copy');

/** A `suspect` file and one with a `link` are rare enough to go through the schema, and so is a machine that tells of its hardware: one of a chain. */
const DISK: Tests<Omit<PointDisk, 'suspect' | 'pieces' | 'link'>> = {
  disk: isName,
  level: isLevel,
  reason: isText,
  state: oneOf('whole', 'merging', 'merged'),
  file: isName,
  parent: orNull(isName),
  bitmap: orNull(
    object<NonNullable<PointDisk['bitmap']>>({
      name: (value) => typeof value === 'string' && value.length <= 1023,
      persistent: isFlag,
    }),
  ),
  virtualSize: isCount,
  size: isCount,
  allocated: isCount,
  mtimeMs: isNumber,
  sha256: orNull(isDigest),
  changed: isCount,
  durationMs: (value) => typeof value === 'number' && value >= 0,
  plaintextOfEncrypted: isFlag,
  compressed: isFlag,
  source: object<PointDisk['source']>({
    device: orNull(isText),
    qdev: orNull(isText),
    node: orNull(isText),
    file: isText,
    format: isText,
    image: (value) => value !== undefined,
  }),
};

const PIECES: Tests<Omit<PieceDigest, 'method'>> = {
  bytes: (value) => isCount(value) && (value as number) >= 65536,
  sha256: isDigest,
};

const POINT: Tests<Omit<Point, keyof typeof OPTIONAL>> = {
  id: isText,
  chain: orNull(isText),
  number: isCount,
  level: isLevel,
  createdAt: isText,
  consistency: oneOf('filesystem', 'crash', 'offline'),
  vmStatus: isText,
  machine: object<Omit<Point['machine'], 'hardware'>>({
    name: orNull(isText),
    uuid: orNull(isText),
    qemuVersion: isText,
    type: orNull(isText),
    memory: orNull(isCount),
    cpus: orNull(Number.isInteger),
  }),
  disks: listOf(object(DISK, { pieces: object(PIECES, { method: oneOf(...DIGEST_METHODS) }) }), 1),
  removed: listOf(isName, 0),
};

const DEFINITION: Tests<PointDefinition> = {
  files: listOf(
    object<DefinitionFile>({
      kind: oneOf('domain', 'live', 'checkpoint', 'nvram', 'tpm'),
      file: isName,
      path: orNull((value) => typeof value === 'string' && value.split('/').every(isComponent)),
      size: isCount,
      sha256: isDigest,
    }),
    0,
  ),
  autostart: orNull(isFlag),
  missing: listOf(isText, 0),
};

const LACKED: Tests<LackedDisk> = { disk: isText, reason: isText, kind: oneOf('rule', 'failed', 'request') };

const OPTIONAL = {
  lacks: listOf(object(LACKED), 0),
  definition: object(DEFINITION),
  pinned: (value) => value === true,
  note: (value) => typeof value === 'string' && isNote(value),
} satisfies Tests<Required<Pick<Point, 'definition' | 'lacks' | 'pinned' | 'note'>>>;

/** Whether a value read from JSON is a point with just the fields that the schema knows, and as it demands them. */
export const isPlainPoint: Test = object(POINT, OPTIONAL);

/** Fields beyond those of `tests` are only those of `optional`. */
function object<T>(tests: Tests<T>, optional: Readonly<Record<string, Test>> = {}): Test {
  const entries = Object.entries<Test>(tests);
  const more = Object.entries(optional);
  return (value) => {
    if (typeof value !== 'object' || value === null) return false;
    const record = value as Readonly<Record<string, unknown>>;
    // No closures, and no entry taken apart: a fifth of the whole.
    for (const entry of entries) if (!entry[1](record[entry[0]])) return false;
    let expected = entries.length;
    for (const [key, test] of more) {
      if (!Object.hasOwn(record, key)) continue;
      if (!test(record[key])) return false;
      expected += 1;
    }
    return Object.keys(value).length === expected;
  };
}

function listOf(test: Test, least: number): Test {
  return (value) => Array.isArray(value) && value.length >= least && value.every(test);
}

function oneOf(...texts: readonly string[]): Test {
  return (value) => typeof value === 'string' && texts.includes(value);
}

function orNull(test: Test): Test {
  return (value) => value === null || test(value);
}

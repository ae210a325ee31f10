import * as v from 'valibot';
import { type BootProof, bootProof } from './boot-proof.js';
import type { Catalog } from './catalog.js';
import type { FileFault } from './file-record.js';
import { hasDigest } from './pieces.js';
import { bytesSchema, componentSchema, type PointDisk } from './point.js';

/**
 * What is remembered of a target's files beside its catalog: when each was last read whole, and which are damaged. It is no
 * part of the backup: without it nothing is lost but that knowledge.
 */
export const VERIFIED_SCHEMA = 1;

/** Faults of the bytes themselves. What is missing or cannot be read now may be back tomorrow, and is looked at each time. */
const REMEMBERED = [
  'other-size',
  'no-image',
  'other-link',
  'other-disk-size',
  'altered',
  'damaged',
  'corrupt',
] as const satisfies readonly FileFault['code'][];

const verifiedFile = v.object({
  disk: componentSchema,
  file: componentSchema,
  /** What was sealed under this name: see `sealedAs`. Of other bytes under the same name nothing is known. */
  of: v.string(),
  /** ISO 8601; null where it never was. */
  readAt: v.nullable(v.string()),
  /** Modification time with which it was read, in milliseconds: such a file need not be hashed to know it. */
  mtimeMs: v.nullable(v.number()),
  damage: v.nullable(
    v.object({
      code: v.picklist(REMEMBERED),
      why: v.string(),
      foundAt: v.string(),
      /** Bytes of the file, where they are known. */
      ranges: v.optional(v.array(v.object({ start: bytesSchema, end: bytesSchema }))),
    }),
  ),
});

const verified = v.object({
  schema: v.literal(VERIFIED_SCHEMA),
  targetId: v.string(),
  files: v.array(verifiedFile),
  /** Of each point how it has booted when it was last tried. */
  boots: v.optional(v.array(bootProof)),
});

export type Verified = v.InferOutput<typeof verified>;
export type VerifiedFile = v.InferOutput<typeof verifiedFile>;

/** Checks a parsed `verified.json`; undefined when it has another shape. */
export function readVerifiedValue(value: unknown): Verified | undefined {
  const result = v.safeParse(verified, value, { abortEarly: true });
  return result.success ? result.output : undefined;
}

/** Tells what was sealed as this file: its digest, or where none was recorded what else there is. */
export function sealedAs({ pieces, sha256, size, mtimeMs }: PointDisk): string {
  if (pieces) return `${pieces.bytes}:${pieces.sha256}`;
  return sha256 ?? `${size}:${mtimeMs}`;
}

export function fileKey({ disk, file }: Pick<PointDisk, 'disk' | 'file'>): string {
  return `${disk}/${file}`;
}

/** What is known of the catalog's files, by `<disk>/<file>`. */
export function knownOf(
  catalog: Pick<Catalog, 'points'>,
  memory: Pick<Verified, 'files'> | undefined,
): ReadonlyMap<string, VerifiedFile> {
  const known = new Map<string, VerifiedFile>();
  if (!memory || memory.files.length === 0) return known;
  const byKey = new Map(memory.files.map((each) => [fileKey(each), each]));
  for (const { disks } of catalog.points) {
    for (const entry of disks) {
      if (entry.state !== 'whole') continue;
      const key = fileKey(entry);
      const found = byKey.get(key);
      if (found?.of === sealedAs(entry)) known.set(key, found);
    }
  }
  return known;
}

/** Proofs of points that are in the catalog, with a new one in place of that of the same point. */
export function proofsOf(
  { points }: Pick<Catalog, 'points'>,
  memory: Pick<Verified, 'boots'> | undefined,
  latest?: BootProof,
): readonly BootProof[] {
  const known = (memory?.boots ?? []).filter(({ point }) => point !== latest?.point);
  const ids = new Set(points.map(({ id }) => id));
  return [...known, ...(latest ? [latest] : [])].filter(({ point }) => ids.has(point));
}

/** Files of the catalog that were found damaged, and did not read right since, by `<disk>/<file>`. */
export function rememberedDamage(known: ReadonlyMap<string, VerifiedFile>): ReadonlyMap<string, FileFault> {
  const damaged = new Map<string, FileFault>();
  for (const [key, { damage }] of known) {
    if (damage)
      damaged.set(key, {
        code: damage.code,
        why: `verify found on ${damage.foundAt}: ${damage.why}`,
        ranges: damage.ranges,
      });
  }
  return damaged;
}

/** What a look has told of one file. */
export interface FileVerdict {
  readonly entry: PointDisk;
  readonly fault: FileFault | undefined;
  /** Modification time of a file that was read to its end and is right; undefined where it was not read. */
  readonly readWith: number | undefined;
}

type Damage = NonNullable<VerifiedFile['damage']>;

/** It is as old as what was found first, and as wide as all that was: what newer files hide of it is judged by its places. */
function damageNow(
  before: Damage | null,
  { code, why, ranges }: Pick<FileFault, 'why' | 'ranges'> & Pick<Damage, 'code'>,
  now: string,
): Damage {
  if (!before) return { code, why, foundAt: now, ...(ranges && { ranges: [...ranges] }) };
  const known = new Set(before.ranges?.map(({ start }) => start));
  if (!before.ranges || ranges?.every(({ start }) => known.has(start))) return before;
  const more = (ranges ?? []).filter(({ start }) => !known.has(start));
  const all = [...before.ranges, ...more].toSorted((a, b) => a.start - b.start);
  return { code, why, foundAt: before.foundAt, ...(ranges && { ranges: all }) };
}

/** What is known of a file after a look at it; undefined where that is nothing. */
export function afterLook(
  before: VerifiedFile | undefined,
  { entry, fault, readWith }: FileVerdict,
  now: string,
): VerifiedFile | undefined {
  const { disk, file } = entry;
  const known = before ?? { disk, file, of: sealedAs(entry), readAt: null, mtimeMs: null, damage: null };
  if (readWith !== undefined && !fault) return { ...known, readAt: now, mtimeMs: readWith, damage: null };
  // Without a digest nothing tells more than that it looks right.
  if (!fault && before?.damage && !hasDigest(entry)) return { ...known, damage: null };
  const code = REMEMBERED.find((each) => each === fault?.code);
  if (fault && code) {
    return { ...known, damage: damageNow(known.damage, { code, why: fault.why, ranges: fault.ranges }, now) };
  }
  return before;
}

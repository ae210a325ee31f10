/**
 * The digest of a file by pieces: one of each, and SHA-256 of the list of these. Pieces are hashed side by side, a part of the file
 * is proved by the pieces that it touches, and what is damaged is told by its place. The list lies beside the file and is
 * proved by the catalog, which has the digest of the list; without it the whole file is still proved, for the list is made
 * anew. Decision 24 has the commands that make both.
 */
export interface PieceDigest {
  /** Length of every piece but the last, in bytes. */
  readonly bytes: number;
  /** Of `listOfPieces`, in hexadecimal. */
  readonly sha256: string;
  /** How the digest of each piece is made; `sha256` where it is absent. */
  readonly method?: DigestMethod | undefined;
}

/**
 * `gmac`: AES-128-GMAC with a key that everybody knows. It finds all that storage, cables and programs do to bytes and takes a fifth
 * of the time of SHA-256, but who knows the key can make another piece with the same digest. `sha256`: nobody can.
 */
export const DIGEST_METHODS = ['gmac', 'sha256'] as const;
export type DigestMethod = (typeof DIGEST_METHODS)[number];

/** What the catalog has to prove a file by: nothing (`--no-digest`), a digest of the whole file (from earlier versions), or of its pieces. */
export interface RecordedDigest {
  readonly sha256: string | null;
  readonly pieces?: PieceDigest | undefined;
}

/**
 * Small enough that a program which reads a few files of a guest proves little more than it reads, and large enough that the list
 * of 1 TiB has 16 MiB.
 */
export const PIECE_BYTES = 4 * 1024 * 1024;

/** Of the list that lies beside a file. */
export const PIECES_SUFFIX = '.pieces';

export function pieceCount(size: number, bytes: number): number {
  return Math.ceil(size / bytes);
}

/** `bytes`: of a piece; `size`: of the file. */
export function rangeOfPiece(
  index: number,
  { bytes, size }: { readonly bytes: number; readonly size: number },
): ByteRange {
  return { start: index * bytes, end: Math.min((index + 1) * bytes, size) };
}

/** Line by line, in hexadecimal. */
export function listOfPieces(digests: readonly string[]): string {
  return digests.map((each) => `${each}\n`).join('');
}

/** Hexadecimal digits of one digest. */
const DIGITS: Readonly<Record<DigestMethod, number>> = { gmac: 32, sha256: 64 };

/** Bytes of the list of so many pieces. */
export function lengthOfList(count: number, method: DigestMethod): number {
  return count * (DIGITS[method] + 1);
}

/** The digests in a list; undefined where it is none of `count` pieces. */
export function piecesInList(list: string, count: number, method: DigestMethod): readonly string[] | undefined {
  const lines = list.split('\n');
  if (lines.pop() !== '' || lines.length !== count) return undefined;
  return lines.every((line) => line.length === DIGITS[method] && /^[0-9a-f]+$/.test(line)) ? lines : undefined;
}

export function methodOfPieces({ method = 'sha256' }: PieceDigest): DigestMethod {
  return method;
}

/** What to prove another content of the file by, as its old one was. */
export function methodOf({ sha256, pieces }: RecordedDigest): DigestMethod | null {
  if (pieces) return methodOfPieces(pieces);
  return sha256 === null ? null : 'sha256';
}

/** Of what several files had: what is merged is proved as well as the best of them was. */
export function strongest(methods: readonly (DigestMethod | null)[]): DigestMethod | null {
  return methods.includes('sha256') ? 'sha256' : (methods.find((each) => each !== null) ?? null);
}

export function hasDigest({ sha256, pieces }: Partial<RecordedDigest>): boolean {
  return (sha256 ?? null) !== null || pieces !== undefined;
}

/** Bytes of a file, from `start` to just before `end`. */
export interface ByteRange {
  readonly start: number;
  readonly end: number;
}

/** Where two lists of the same file differ; neighbours are one range. */
export function differingRanges(
  found: readonly string[],
  recorded: readonly string[],
  { bytes, size }: { readonly bytes: number; readonly size: number },
): readonly ByteRange[] {
  const ranges: ByteRange[] = [];
  for (const [index, digest] of found.entries()) {
    if (digest === recorded[index]) continue;
    const { start, end } = rangeOfPiece(index, { bytes, size });
    const last = ranges.at(-1);
    if (last?.end === start) ranges[ranges.length - 1] = { start: last.start, end };
    else ranges.push({ start, end });
  }
  return ranges;
}

import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import type { Catalog } from '../core/catalog.js';
import { hasDigest, listOfPieces, methodOf, methodOfPieces, PIECE_BYTES, pieceCount } from '../core/pieces.js';
import type { PointDisk } from '../core/point.js';
import { fileFinding, refuseFindings } from '../core/point-findings.js';
import { type HeaderPatch, relinkHeader } from '../core/relink-header.js';
import { fileError } from '../host/file-errors.js';
import { createHasher } from '../host/hasher.js';
import { beginning } from '../qemu-tools/examine.js';
import { damagedAt } from './check-file.js';
import { digestByPieces, digestOfList, type DigestOptions, findDigestFault, readPieces } from './digest.js';
import { fileState } from './file-state.js';
import { filePath } from './layout.js';
import { changeLinked } from './links-as-they-are.js';
import { mendPieceList } from './mend-file.js';
import { replacePieceList } from './piece-list.js';

/**
 * A file that builds on one which was merged into another names it in its header. The catalog says first what is true of it before
 * and after (`PointDisk.link`), then its header is changed, by one small write; killed at any step, the header tells which of
 * both it is (`withLinksAsTheyAre`).
 */

/**
 * What the catalog has to say of a file whose parent becomes `parent`. Looks whether the part that changes holds what was sealed:
 * the new digest would make damage look right.
 *
 * @throws QmpBackupError `damaged` where it does not
 */
export async function linkTo(
  target: string,
  entry: PointDisk,
  parent: string,
  options: DigestOptions,
): Promise<NonNullable<PointDisk['link']>> {
  const path = filePath(target, entry.disk, entry.file);
  const name = entry.link?.name ?? entry.parent ?? parent;
  const patch = relinkHeader(await beginning(path, entry.file), parent);
  const method = methodOf(entry);
  if (!patch || method === null) return { name };
  const digests = await provenPieces(path, entry, options);
  const first = await firstPiece(path, patch);
  const hasher = createHasher(method);
  hasher.update(first);
  const sha256 = digestOfList(listOfPieces([hasher.digest(), ...digests.slice(1)]));
  return { name, pieces: { bytes: PIECE_BYTES, sha256, method } };
}

/** Digests of the pieces of a file, of which at least the first was proved just now. */
async function provenPieces(path: string, entry: PointDisk, options: DigestOptions): Promise<readonly string[]> {
  const { disk, file, pieces, size } = entry;
  const list = pieces?.bytes === PIECE_BYTES && (await readPieces(path, pieces, pieceCount(size, PIECE_BYTES)));
  if (pieces && list) {
    const hasher = createHasher(methodOfPieces(pieces));
    hasher.update(await firstPiece(path, { bytes: new Uint8Array() }));
    if (hasher.digest() === list[0]) return list;
  }
  const fault = await findDigestFault(path, entry, options);
  if (fault) refuseFindings([fileFinding(disk, file, damagedAt(fault))]);
  return (await digestByPieces(path, methodOf(entry) ?? 'gmac', options)).digests;
}

/** The first piece of a file, as it is with the patch. */
async function firstPiece(path: string, { bytes }: HeaderPatch): Promise<Buffer> {
  try {
    const handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW);
    try {
      const { size } = await handle.stat();
      const piece = Buffer.alloc(Math.min(size, PIECE_BYTES));
      for (let at = 0; at < piece.length;) {
        const { bytesRead } = await handle.read(piece, at, piece.length - at, at);
        if (bytesRead === 0) throw new Error('it became shorter');
        at += bytesRead;
      }
      piece.set(bytes, 0);
      return piece;
    } finally {
      await handle.close();
    }
  } catch (error) {
    throw fileError('read', path, error);
  }
}

/** Gives the files their links. For who holds the target's lock; done again it goes on where it was. */
export function settleLinks<C extends Pick<Catalog, 'points'>>(target: string, catalog: C): Promise<C> {
  return changeLinked(catalog, (entry) => settled(target, entry));
}

async function settled(target: string, entry: PointDisk): Promise<PointDisk> {
  const { link, parent, disk, file } = entry;
  if (!link || parent === null || (hasDigest(entry) && !link.pieces)) return entry;
  const path = filePath(target, disk, file);
  if (!(await fileState(path))) return entry;
  const old = link.name === parent ? undefined : await oldDigests(path, entry);
  if (link.name !== parent) {
    const patch = relinkHeader(await beginning(path, file), parent);
    if (!patch) return entry;
    await write(path, patch);
  }
  const now: PointDisk = { ...entry, link: undefined, sha256: null, pieces: link.pieces };
  await keepList(path, now, old);
  return { ...now, mtimeMs: (await fileState(path))?.mtimeMs ?? now.mtimeMs };
}

function oldDigests(path: string, { pieces, size }: PointDisk): Promise<readonly string[] | undefined> {
  return pieces ? readPieces(path, pieces, pieceCount(size, pieces.bytes)) : Promise.resolve(undefined);
}

/** The list of its pieces, of which only the first is another; made anew where that cannot be. */
async function keepList(path: string, entry: PointDisk, old: readonly string[] | undefined): Promise<void> {
  const { pieces, size } = entry;
  const count = pieces ? pieceCount(size, pieces.bytes) : 0;
  if (!pieces || count <= 1 || (await readPieces(path, pieces, count))) return;
  const hasher = createHasher(methodOfPieces(pieces));
  hasher.update(await firstPiece(path, { bytes: new Uint8Array() }));
  const digests = [hasher.digest(), ...(old ?? []).slice(1)];
  const list = listOfPieces(digests);
  if (digestOfList(list) === pieces.sha256) await replacePieceList(path, { pieces, digests, list });
  else await mendPieceList(path, entry, {});
}

async function write(path: string, { bytes }: HeaderPatch): Promise<void> {
  try {
    const handle = await open(path, constants.O_WRONLY | constants.O_NOFOLLOW);
    try {
      const { bytesWritten } = await handle.write(bytes, 0, bytes.length, 0);
      if (bytesWritten < bytes.length) throw new Error(`${bytesWritten} of ${bytes.length} bytes were written`);
      await handle.sync();
    } finally {
      await handle.close();
    }
  } catch (error) {
    throw fileError('write', path, error);
  }
}

import { rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { PIECES_SUFFIX } from '../core/pieces.js';
import { replaceFile } from '../host/durable.js';
import { fileError } from '../host/file-errors.js';
import { ownerFor } from '../host/ownership.js';
import { fillReserved } from './definition-files.js';
import type { DigestByPieces } from './digest.js';
import type { Staging } from './staging.js';

/** The list of a file's pieces beside it. Of a single piece there is none: it would tell no more than the catalog does. */

/** Of a new file. Durable, and gone again with it where the run does not seal its point. */
export async function keepPieceList(
  staging: Staging,
  { disk, file }: { readonly disk: string; readonly file: string },
  { digests, list }: DigestByPieces,
): Promise<void> {
  if (digests.length <= 1) return;
  const name = `${file}${PIECES_SUFFIX}`;
  await fillReserved(await staging.reserve(disk, name), Buffer.from(list));
  await staging.promote(disk, name);
}

/** Of a file whose content has changed; null where no digest of it is to be recorded. */
export async function replacePieceList(path: string, digest: DigestByPieces | null): Promise<void> {
  if (digest && digest.digests.length > 1) {
    return replaceFile(`${path}${PIECES_SUFFIX}`, digest.list, { mode: 0o600, owner: await ownerFor(dirname(path)) });
  }
  await removePieceList(path);
}

/** It need not be there. */
export async function removePieceList(path: string): Promise<void> {
  const list = `${path}${PIECES_SUFFIX}`;
  try {
    await rm(list, { force: true });
  } catch (error) {
    throw fileError('remove', list, error);
  }
}

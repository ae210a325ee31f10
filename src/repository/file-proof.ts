import { createHash, type Hash } from 'node:crypto';
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import type { ExportedFile } from '../core/export-part.js';
import type { FileFault } from '../core/file-record.js';
import { methodOfPieces, type RecordedDigest } from '../core/pieces.js';
import { fileFinding, refuseFindings } from '../core/point-findings.js';
import { messageOf } from '../errors.js';
import { codeOf } from '../host/file-errors.js';
import { chunksIn, type DigestByPieces, PieceHasher } from './digest.js';
import { filePath } from './layout.js';

/** Files that are read or written from their first byte to their last, and proved on the way by what the catalog has of them. */
export class FileProof {
  readonly #recorded: RecordedDigest;
  readonly #pieces: PieceHasher | undefined;
  readonly #whole: Hash | undefined;
  #size = 0;

  constructor(recorded: RecordedDigest) {
    const { pieces, sha256 } = recorded;
    this.#recorded = recorded;
    if (pieces) this.#pieces = new PieceHasher({ bytes: pieces.bytes, method: methodOfPieces(pieces) });
    else if (sha256 !== null) this.#whole = createHash('sha256');
  }

  update(bytes: Uint8Array): void {
    this.#size += bytes.length;
    this.#pieces?.update(bytes);
    this.#whole?.update(bytes);
  }

  /** Bytes so far. */
  get size(): number {
    return this.#size;
  }

  /** When all bytes have come. `digest`: what is kept beside the file, where it has pieces. */
  end(): { readonly isRight: boolean; readonly digest: DigestByPieces | null } {
    const { pieces, sha256 } = this.#recorded;
    const digest = this.#pieces?.digest() ?? null;
    if (digest) return { isRight: digest.pieces.sha256 === pieces?.sha256, digest };
    return { isRight: this.#whole === undefined || this.#whole.digest('hex') === sha256, digest };
  }
}

/** What proves a file of an export. */
export function digestOfExported({ image, sha256 }: ExportedFile): RecordedDigest {
  return { sha256: image ? image.sha256 : sha256, pieces: image?.pieces };
}

/**
 * The bytes of a file of a target; the last are followed by a refusal where they are not what was sealed. Each chunk is valid until the
 * next is asked for.
 *
 * @throws QmpBackupError `damaged`; `unsafe` where it is gone, a link, or of another size
 */
export async function* readProved(target: string, exported: ExportedFile): AsyncGenerator<Buffer, void> {
  const { folder, file, size } = exported;
  const refuse = (fault: FileFault): void => refuseFindings([fileFinding(folder, `${folder}/${file}`, fault)]);
  const proof = new FileProof(digestOfExported(exported));
  try {
    const handle = await open(filePath(target, folder, file), constants.O_RDONLY | constants.O_NOFOLLOW);
    try {
      for await (const chunk of chunksIn(handle, size)) {
        proof.update(chunk);
        yield chunk;
      }
    } finally {
      await handle.close();
    }
  } catch (error) {
    const code = codeOf(error);
    if (code === undefined || !('syscall' in (error as object))) throw error;
    refuse({
      code: code === 'ENOENT' ? 'missing' : 'unreadable',
      why: `it cannot be read: ${messageOf(error)}`,
    });
  }
  if (proof.size !== size) refuse({ code: 'other-size', why: `it has ${proof.size} bytes, the catalog says ${size}` });
  if (!proof.end().isRight) refuse({ code: 'damaged', why: 'its bytes are no longer those that were backed up' });
}

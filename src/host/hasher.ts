import * as crypto from 'node:crypto';
import type { DigestMethod } from '../core/pieces.js';

/** The digest of bytes that come one after the other. */
export interface Hasher {
  update(bytes: Uint8Array): void;
  /** In hexadecimal. */
  digest(): string;
}

/** `qmpbackup digest` in hexadecimal. It is no secret: a digest by GMAC does not find what is altered on purpose. */
export const GMAC_KEY = '716d706261636b757020646967657374';

export function createHasher(method: DigestMethod): Hasher {
  return newHasher(method, crypto, GMAC_KEY);
}

/** Gets all that is outside of it, for threads that get it as text. */
export function newHasher(
  method: DigestMethod,
  { createHash, createCipheriv }: Pick<typeof crypto, 'createHash' | 'createCipheriv'>,
  key: string,
): Hasher {
  if (method === 'sha256') {
    const hash = createHash('sha256');
    return { update: (bytes) => void hash.update(bytes), digest: () => hash.digest('hex') };
  }
  // GMAC is the tag of GCM over data that is authenticated and nothing else. One nonce for all pieces: their order is proved by the list.
  const cipher = createCipheriv('aes-128-gcm', Buffer.from(key, 'hex'), Buffer.alloc(12));
  return {
    update: (bytes) => void cipher.setAAD(bytes),
    digest: () => {
      cipher.final();
      return cipher.getAuthTag().toString('hex');
    },
  };
}

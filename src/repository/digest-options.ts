import { type OptionRules, type ValuesOf, yesOrNo } from '../core/option-rules.js';
import type { DigestMethod } from '../core/pieces.js';
import { QmpBackupError } from '../errors.js';

/** Which digests of its files a verb records that makes points. */
export const DIGEST_OPTIONS = {
  /** Records a digest of each file. */
  digest: yesOrNo('--no-digest', true),
  /** Makes it by SHA-256 and not by GMAC. */
  sha256: yesOrNo('--sha256'),
} satisfies OptionRules;

/** Null is none. @throws QmpBackupError `usage` */
export function digestsOf({ digest, sha256 }: ValuesOf<typeof DIGEST_OPTIONS>): DigestMethod | null {
  if (sha256 && !digest) {
    throw new QmpBackupError('usage', '--sha256 and --no-digest contradict each other', { hint: 'Give one of them.' });
  }
  if (!digest) return null;
  return sha256 ? 'sha256' : 'gmac';
}

import type { Finding } from './finding.js';
import type { PointFindingCode } from './point-findings.js';

/** What is found wrong with a target as a whole: with its points and their files, and with what else lies in it. */
export interface TargetFinding extends Finding {
  readonly code: PointFindingCode | TargetFindingCode;
  /** The file that is meant: in the folder of the disk that is `subject`, in the target itself where that is `target`; or null. */
  readonly file: string | null;
  /** Why, without the name of the file or disk; continues a sentence that begins with it. */
  readonly why: string;
}

export type TargetFindingCode =
  /** `catalog.json` is missing beside files of ours. */
  | 'no-catalog'
  /** It is damaged, no regular file, or of a newer version. */
  | 'bad-catalog'
  /** Its own copy has points that it does not have. */
  | 'old-catalog'
  /** It has another target's id than its copy. */
  | 'other-catalog'
  /** Level `warning`: `verified.json` is damaged or another target's, so that nothing is known of earlier reading. */
  | 'bad-memory'
  | 'memory-not-kept'
  /** Level `warning`: space is wasted in an image, and nothing else. */
  | 'leaked'
  /** Level `warning`: the list of a file's pieces is missing or altered; the file itself is proved without it. */
  | 'no-piece-list'
  /** Level `warning`: it has the name of a backup file, and neither the catalog nor a dead run knows it. */
  | 'stray'
  /** Level `warning`: it was never whole, and no dead run knows it. */
  | 'partial'
  /** Level `info`: a dead run or a rebase has left it, and the next run removes it. */
  | 'left-over'
  /** Level `info`: no file of this program. */
  | 'foreign'
  /** Level `info`: there is no digest to prove it by. */
  | 'no-digest'
  /** It was started, and did not answer. */
  | 'no-boot'
  /** Level `warning`: another run has the target, so that it was not looked at. */
  | 'locked';

type Told = Pick<TargetFinding, 'level' | 'subject' | 'code' | 'why' | 'todo'> & { readonly file?: string };

/** A finding whose words are the name of the file, if it is about one, and why. */
export function targetFinding({ file, ...told }: Told): TargetFinding {
  const what = file === undefined ? told.why : `${file}: ${told.why}`;
  return { ...told, file: file ?? null, what };
}

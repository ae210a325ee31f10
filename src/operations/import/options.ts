import { LOCK_OPTIONS, TARGET_OPTIONS } from '../../backends/vm-options.js';
import {
  requiredChoice,
  type OptionRules,
  type RequestOf,
  requiredWord,
  word,
  valuesOf,
  yesOrNo,
} from '../../core/option-rules.js';
import type { DigestMethod } from '../../core/pieces.js';
import { toolName } from '../../host/package-version.js';
import { DIGEST_OPTIONS, digestsOf } from '../../repository/digest-options.js';

export const IMPORT_OPTIONS = {
  ...TARGET_OPTIONS,
  ...LOCK_OPTIONS,
  /** The tool that wrote the folder. */
  from: requiredChoice('--from', ['virtnbdbackup']),
  /** The folder that the other tool wrote. */
  source: requiredWord('<dir>'),
  /** What the VM is called, where the folder does not tell. */
  vmName: word('--vm-name'),
  ...DIGEST_OPTIONS,
  /** Says what would be made. */
  dryRun: yesOrNo('--dry-run'),
} satisfies OptionRules;

export type ImportRequest = RequestOf<typeof IMPORT_OPTIONS>;

export interface ImportOptions {
  readonly source: string;
  /** A target without a catalog. */
  readonly target: string;
  /** `--vm-name`. */
  readonly label: string | null;
  /** How digests of the files are made; null is not at all. */
  readonly digests: DigestMethod | null;
  readonly dryRun: boolean;
  readonly breakLock: boolean;
  /** Name and version that the catalog records. */
  readonly tool: string;
}

/** @throws QmpBackupError `usage` */
export function importOptions(request: ImportRequest): ImportOptions {
  const { source, target, vmName, digest, sha256, dryRun, breakLock } = valuesOf(IMPORT_OPTIONS, request);
  return { source, target, label: vmName, digests: digestsOf({ digest, sha256 }), dryRun, breakLock, tool: toolName() };
}

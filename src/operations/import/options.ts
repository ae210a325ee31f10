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
import { toolName } from '../../host/package-version.js';

export const IMPORT_OPTIONS = {
  ...TARGET_OPTIONS,
  ...LOCK_OPTIONS,
  /** The tool that wrote the folder. */
  from: requiredChoice('--from', ['virtnbdbackup']),
  /** The folder that the other tool wrote. */
  source: requiredWord('<dir>'),
  /** What the VM is called, where the folder does not tell. */
  vmName: word('--vm-name'),
  /** Records a digest of each file. */
  digest: yesOrNo('--no-digest', true),
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
  readonly digests: boolean;
  readonly dryRun: boolean;
  readonly breakLock: boolean;
  /** Name and version that the catalog records. */
  readonly tool: string;
}

/** @throws QmpBackupError `usage` */
export function importOptions(request: ImportRequest): ImportOptions {
  const { source, target, vmName, digest, dryRun, breakLock } = valuesOf(IMPORT_OPTIONS, request);
  return { source, target, label: vmName, digests: digest, dryRun, breakLock, tool: toolName() };
}

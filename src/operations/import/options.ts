import { LOCK_OPTIONS, TARGET_OPTIONS } from '../../backends/vm-options.js';
import {
  requiredChoice,
  type OptionRules,
  type RequestOf,
  word,
  words,
  valuesOf,
  yesOrNo,
} from '../../core/option-rules.js';
import { QmpBackupError } from '../../errors.js';
import type { DigestMethod } from '../../core/pieces.js';
import { toolName } from '../../host/package-version.js';
import { DIGEST_OPTIONS, digestsOf } from '../../repository/digest-options.js';

export const IMPORT_OPTIONS = {
  ...TARGET_OPTIONS,
  ...LOCK_OPTIONS,
  /** What is taken in: the folder of another tool, or an export of this one. */
  from: requiredChoice('--from', ['virtnbdbackup', 'export']),
  /** The folder that the other tool wrote; the archive, or `-`: see `ImportContext`. */
  source: words('<source>'),
  /** What the VM is called, where the folder does not tell. */
  vmName: word('--vm-name'),
  ...DIGEST_OPTIONS,
  /** Says what would be made. */
  dryRun: yesOrNo('--dry-run'),
} satisfies OptionRules;

export type ImportRequest = RequestOf<typeof IMPORT_OPTIONS>;

export interface ImportOptions {
  readonly from: 'virtnbdbackup' | 'export';
  readonly source: string;
  /** A target without a catalog; or one that an export goes on from. */
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
  const {
    from,
    source: sources,
    target,
    vmName,
    digest,
    sha256,
    dryRun,
    breakLock,
  } = valuesOf(IMPORT_OPTIONS, request);
  const [source, ...others] = sources;
  if (source === undefined || others.length > 0) {
    throw new QmpBackupError('usage', `--from ${from} takes one source, and ${sources.length} were given`);
  }
  const digests = digestsOf({ digest, sha256 });
  if (from === 'export' && (vmName !== null || digests !== 'gmac')) {
    throw new QmpBackupError('usage', 'an export says what its VM is called, and has the digests of its files', {
      hint: 'Leave out --vm-name, --no-digest and --sha256.',
    });
  }
  return { from, source, target, label: vmName, digests, dryRun, breakLock, tool: toolName() };
}

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
import { isComponent } from '../../core/names.js';
import type { DigestMethod } from '../../core/pieces.js';
import { toolName } from '../../host/package-version.js';
import { DIGEST_OPTIONS, digestsOf } from '../../repository/digest-options.js';

export const IMPORT_OPTIONS = {
  ...TARGET_OPTIONS,
  ...LOCK_OPTIONS,
  /** What is taken in: the folder of another tool, images that build on one another, or an export of this program. */
  from: requiredChoice('--from', ['virtnbdbackup', 'images', 'export']),
  /** The folder that the other tool wrote; the images; the archive, or `-`: see `ImportContext`. */
  source: words('<source>'),
  /** What the VM is called, where the folder does not tell. */
  vmName: word('--vm-name'),
  /** Of images: the id of their disk, which is that of libvirt for a domain. Else by the name of the oldest. */
  disk: word('--disk'),
  ...DIGEST_OPTIONS,
  /** Says what would be made. */
  dryRun: yesOrNo('--dry-run'),
} satisfies OptionRules;

export type ImportRequest = RequestOf<typeof IMPORT_OPTIONS>;

export interface ImportOptions {
  readonly from: 'virtnbdbackup' | 'images' | 'export';
  /** The first of them. */
  readonly source: string;
  readonly sources: readonly string[];
  readonly disk: string | null;
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
    disk,
    vmName,
    digest,
    sha256,
    dryRun,
    breakLock,
  } = valuesOf(IMPORT_OPTIONS, request);
  const [source, ...others] = sources;
  if (source === undefined) throw new QmpBackupError('usage', 'there is nothing to import');
  if (others.length > 0 && from !== 'images') {
    throw new QmpBackupError('usage', `--from ${from} takes one source, and ${sources.length} were given`);
  }
  if (disk !== null && (from !== 'images' || !isComponent(disk))) {
    throw new QmpBackupError('usage', from === 'images' ? `--disk ${disk} is no disk id` : '--disk goes with images', {
      hint: 'Name the disk of the images as the VM has it, such as vda: letters, digits and . _ + : @ - only.',
    });
  }
  const digests = digestsOf({ digest, sha256 });
  if (from === 'export' && (vmName !== null || digests !== 'gmac')) {
    throw new QmpBackupError('usage', 'an export says what its VM is called, and has the digests of its files', {
      hint: 'Leave out --vm-name, --no-digest and --sha256.',
    });
  }
  return { from, source, sources, disk, target, label: vmName, digests, dryRun, breakLock, tool: toolName() };
}

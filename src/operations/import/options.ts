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
  /**
   * Of images: the id of their disk, which is that of libvirt for a domain; else by the name of the oldest. Of several disks the id of each, as
   * `ID=FILE` with any of its images.
   */
  disk: words('--disk'),
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
  readonly disks: readonly NamedDisk[];
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

/** The id of a disk, and one of its images; null where there is but one disk. */
export interface NamedDisk {
  readonly id: string;
  readonly file: string | null;
}

/** @throws QmpBackupError `usage` */
export function importOptions(request: ImportRequest): ImportOptions {
  const {
    from,
    source: sources,
    target,
    disk: named,
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
  if (named.length > 0 && from !== 'images') throw new QmpBackupError('usage', '--disk goes with images');
  const disks = disksOf(named);
  const digests = digestsOf({ digest, sha256 });
  if (from === 'export' && (vmName !== null || digests !== 'gmac')) {
    throw new QmpBackupError('usage', 'an export says what its VM is called, and has the digests of its files', {
      hint: 'Leave out --vm-name, --no-digest and --sha256.',
    });
  }
  return { from, source, sources, disks, target, label: vmName, digests, dryRun, breakLock, tool: toolName() };
}

function disksOf(named: readonly string[]): readonly NamedDisk[] {
  const disks = named.map((text): NamedDisk => {
    const [, id = text, file = null] = /^([^=]*)=(.+)$/s.exec(text) ?? [];
    if (isComponent(id)) return { id, file };
    throw new QmpBackupError('usage', `--disk ${text}: ${id} is no disk id`, {
      hint: 'Name the disk of the images as the VM has it, such as vda: letters, digits and . _ + : @ - only.',
    });
  });
  const twice = disks.find(({ id }, index) => disks.findIndex((each) => each.id === id) !== index);
  if (twice) throw new QmpBackupError('usage', `--disk ${twice.id} was given twice`);
  const bare = disks.find(({ file }) => file === null);
  if (bare && disks.length > 1) {
    throw new QmpBackupError('usage', `--disk ${bare.id} does not say of which images it is`, {
      hint: `Of several disks name each by one of its images: --disk ${bare.id}=FILE`,
    });
  }
  return disks;
}

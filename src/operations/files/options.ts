import { type AskedPoint, askedPoint, LOCK_OPTIONS, POINT_OPTIONS, TARGET_OPTIONS } from '../../backends/vm-options.js';
import {
  choice,
  names,
  type OptionRules,
  type RequestOf,
  requiredWord,
  valuesOf,
  word,
  yesOrNo,
} from '../../core/option-rules.js';
import { QmpBackupError } from '../../errors.js';

/** What all of `files` can be asked. */
const COMMON = {
  ...TARGET_OPTIONS,
  ...POINT_OPTIONS,
  ...LOCK_OPTIONS,
  /** What was read is proved by its digests. */
  verify: yesOrNo('--no-verify', true),
  /** Only on these disks, by disk id. */
  disks: names('--disk'),
  /** The number of a partition, `whole` for a disk without any, or a logical volume, `/dev/vg/lv`. */
  partition: word('--partition'),
  /** What reads the file systems; `auto`: sleuthkit where it can. */
  reader: choice('--reader', ['auto', 'sleuthkit', 'guestfs'], 'auto'),
} satisfies OptionRules;

export const FILES_LS_OPTIONS = {
  ...COMMON,
  /** Absolute, in the guest's file system; without, what file systems there are. */
  path: word('[path]'),
} satisfies OptionRules;

export const FILES_GET_OPTIONS = {
  ...COMMON,
  /** Where they are written to, each under its own name. */
  output: word('--output'),
  /** As a tar archive instead. */
  tar: yesOrNo('--tar'),
} satisfies OptionRules;

export const FILES_FIND_OPTIONS = {
  ...COMMON,
  /** `*` and `?`, compared with the last component. */
  name: requiredWord('--name'),
  /** The folder that is searched; without, the whole file system. */
  path: word('[path]'),
} satisfies OptionRules;

export type FilesLsRequest = RequestOf<typeof FILES_LS_OPTIONS>;
export type FilesGetRequest = RequestOf<typeof FILES_GET_OPTIONS> & {
  /** Absolute, in the guest's file system. */
  readonly paths: readonly string[];
};
export type FilesFindRequest = RequestOf<typeof FILES_FIND_OPTIONS>;

export interface FilesOptions extends AskedPoint {
  readonly target: string;
  readonly disks: readonly string[];
  readonly partition: string | null;
  readonly reader: 'auto' | 'sleuthkit' | 'guestfs';
  readonly breakLock: boolean;
  readonly verify: boolean;
}

/** @throws QmpBackupError `usage` */
export function filesLsOptions(request: FilesLsRequest): FilesOptions & { readonly path: string | null } {
  const { point, at, ...values } = valuesOf(FILES_LS_OPTIONS, request);
  refuseRelative(values.path === null ? [] : [values.path]);
  return { ...values, ...askedPoint({ point, at }) };
}

export type GetOptions = FilesOptions & { readonly paths: readonly string[] } & (
    { readonly output: string; readonly tar: false } | { readonly output: null; readonly tar: true }
  );

/** @throws QmpBackupError `usage` */
export function filesGetOptions({ paths, ...request }: FilesGetRequest): GetOptions {
  const { point, at, output, tar, ...values } = valuesOf(FILES_GET_OPTIONS, request);
  if (paths.length === 0) throw new QmpBackupError('usage', 'no path was given');
  refuseRelative(paths);
  const common = { ...values, paths, ...askedPoint({ point, at }) };
  if (tar && output === null) return { ...common, output: null, tar: true };
  if (!tar && output !== null) return { ...common, output, tar: false };
  throw new QmpBackupError('usage', tar ? '--tar and --output exclude each other' : 'nothing says where to write', {
    hint: 'Give --output DIR, or --tar for an archive on stdout.',
  });
}

/** @throws QmpBackupError `usage` */
export function filesFindOptions(
  request: FilesFindRequest,
): FilesOptions & { readonly name: string; readonly path: string } {
  const { point, at, path, ...values } = valuesOf(FILES_FIND_OPTIONS, request);
  refuseRelative(path === null ? [] : [path]);
  if (values.name.includes('/')) throw new QmpBackupError('usage', '--name is a name, not a path');
  return { ...values, path: path ?? '/', ...askedPoint({ point, at }) };
}

function refuseRelative(paths: readonly string[]): void {
  const relative = paths.find((path) => !path.startsWith('/'));
  if (relative === undefined) return;
  throw new QmpBackupError('usage', `${relative} is no absolute path`, {
    hint: 'Give it as the guest has it, from the root of its file system: /etc/fstab',
  });
}

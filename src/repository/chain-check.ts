import { basename, join } from 'node:path';
import { type FileFault, isFault, NO_FOLDER, type SeenFile } from '../core/file-record.js';
import { hasDigest, type RecordedDigest } from '../core/pieces.js';
import { linkOf, type PointDisk } from '../core/point.js';
import { fileFinding, type PointFinding, refuseFindings } from '../core/point-findings.js';
import { checkHeader, damagedAt, whyTouched } from './check-file.js';
import type { DigestOptions, findDigestFault } from './digest.js';
import { isFolder, lookAtFile } from './file-state.js';
import { diskFolder, pathIn } from './layout.js';
import { isHealed } from './shadowed.js';

/** The files that a state needs, FULL first, proven to be what was backed up before qemu-img reads them. */
export interface ChainFile extends Partial<RecordedDigest> {
  readonly file: string;
  readonly parent: string | null;
  /** Bytes. */
  readonly virtualSize: number;
  /** Its data may take more bytes than the file does. */
  readonly compressed?: boolean;
}

export interface ChainCheck {
  /** All of level `error`, in the order of the chain. */
  readonly findings: readonly PointFinding[];
  /** Files with another modification time and the same content: a copied folder. Recording it saves the digest. */
  readonly refreshed: readonly { readonly file: string; readonly mtimeMs: number }[];
}

/**
 * Checks the files of one disk that a point needs, FULL first: each is there, has the recorded size, and either the
 * recorded modification time or the recorded digest; its header tells the recorded disk size and parent and no other
 * file. Digests are made only of files that were touched, and only where all else is in order. `ofState`: only the state of the
 * last is wanted, so that what files above have healed is in order.
 */
export async function checkChain(
  target: string,
  files: readonly PointDisk[],
  { ofState = false, ...options }: DigestOptions & { readonly ofState?: boolean } = {},
): Promise<ChainCheck> {
  const [first] = files;
  if (!first) return { findings: [], refreshed: [] };
  const folder = diskFolder(target, first.disk);
  if (!(await isFolder(folder))) {
    return { findings: [fileFinding(first.disk, first.file, NO_FOLDER)], refreshed: [] };
  }
  const findings: PointFinding[] = [];
  const touched: (SeenFile & { readonly entry: PointDisk })[] = [];
  for (const [index, entry] of files.entries()) {
    const seen = await checkEntry(folder, entry, files[index - 1]?.file ?? null);
    if (isFault(seen)) findings.push(fileFinding(entry.disk, entry.file, seen));
    else if (seen.touched) touched.push({ ...seen, entry });
  }
  const refreshed: { file: string; mtimeMs: number }[] = [];
  for (const { entry, ...seen } of findings.length > 0 ? [] : touched) {
    const { disk, file } = entry;
    const fault = await whyTouched(pathIn(folder, file), entry, seen, options);
    if (fault && ofState) {
      const chain = files.map((each) => ({ ...each, path: pathIn(folder, each.file) }));
      if (await isHealed(chain, pathIn(folder, file), fault)) continue;
    }
    if (fault) findings.push(fileFinding(disk, file, fault));
    else refreshed.push({ file, mtimeMs: seen.mtimeMs });
  }
  return { findings, refreshed };
}

async function checkEntry(
  folder: string,
  entry: PointDisk,
  before: string | null,
): Promise<Awaited<ReturnType<typeof lookAtFile>>> {
  if (entry.parent !== before) {
    const why = `the catalog gives as its parent ${entry.parent ?? 'none'}, not ${before ?? 'none'}`;
    return { code: 'other-link', why };
  }
  const path = pathIn(folder, entry.file);
  const seen = await lookAtFile(path, entry);
  if (isFault(seen)) return seen;
  const header = await checkHeader(path, { links: [linkOf(entry)], virtualSize: entry.virtualSize });
  return isFault(header) ? header : seen;
}

/**
 * Reads a file in the folder of its disk to its end: bits that storage has lost show in neither size nor time. Undefined
 * where it holds what was backed up, or where no digest tells.
 */
export async function findDamage(
  dir: string,
  file: ProvedFile,
  options: DigestOptions,
  deps: DigestDeps,
): Promise<PointFinding | undefined> {
  const fault = await faultOf(dir, file, options, deps);
  return fault && fileFinding(basename(dir), file.file, fault);
}

async function faultOf(
  dir: string,
  { file, sha256 = null, pieces }: ProvedFile,
  options: DigestOptions,
  deps: DigestDeps,
): Promise<FileFault | undefined> {
  const fault = await deps.findDigestFault(join(dir, file), { sha256, pieces }, options);
  return fault && damagedAt(fault);
}

export interface DigestDeps {
  readonly findDigestFault: typeof findDigestFault;
}

type ProvedFile = Pick<ChainFile, 'file' | 'sha256' | 'pieces'>;

/** Of files that are to be merged. @throws QmpBackupError `damaged` for the first file in which `findDamage` finds any */
export async function refuseDamage(
  dir: string,
  files: readonly ProvedFile[],
  options: DigestOptions & { readonly onFile?: (file: string) => void },
  deps: DigestDeps,
): Promise<void> {
  await refuseDamageBut(dir, files, { ...options, hint: NOTHING_MERGED }, deps, () => Promise.resolve(false));
}

/** Points above may show nothing of the damage, and restore; a merge would seal it anew, among bytes that are proved. */
const NOTHING_MERGED =
  'Nothing was merged. Put the file back from another copy; or see which points are whole without it (qmpbackup verify --read-data), and begin a new chain (qmpbackup backup --level full).';

/** As `refuseDamage`, of all files that a state needs, FULL first, but for what those above have healed: the state shows nothing of it. */
export async function refuseDamageOfState(
  dir: string,
  chain: readonly ChainFile[],
  options: DigestOptions,
  deps: DigestDeps,
): Promise<void> {
  const files = chain.map((each) => ({ ...each, path: join(dir, each.file) }));
  await refuseDamageBut(dir, chain, options, deps, (file, fault) => isHealed(files, join(dir, file), fault));
}

async function refuseDamageBut(
  dir: string,
  chain: readonly ProvedFile[],
  options: DigestOptions & { readonly onFile?: (file: string) => void; readonly hint?: string },
  deps: DigestDeps,
  isInOrder: (file: string, fault: FileFault) => Promise<boolean>,
): Promise<void> {
  const { signal, rateLimit, besideCopy, onFile, hint } = options;
  for (const each of chain) {
    if (hasDigest(each)) onFile?.(each.file);
    const found = await faultOf(dir, each, { signal, rateLimit, besideCopy }, deps);
    if (found && !(await isInOrder(each.file, found))) {
      refuseFindings([fileFinding(basename(dir), each.file, found)], hint === undefined ? {} : { hint });
    }
  }
}

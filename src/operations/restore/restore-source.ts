import type { Dirent } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { Catalog } from '../../core/catalog.js';
import { currentChain } from '../../core/chain.js';
import type { LeftOut } from '../../core/disk.js';
import { displayName, type VmIdentity } from '../../core/identity.js';
import { MACHINE_SCHEMA, machineRecord, type PlacedInMachine } from '../../core/machine-record.js';
import type { LackedDisk, Point } from '../../core/point.js';
import { isDamageFinding, refuseFindings } from '../../core/point-findings.js';
import { type NameParts, type RestoredNames, restoredNames } from '../../core/restored-names.js';
import { type Warn, warning } from '../../core/warning.js';
import type { Owner } from '../../host/ownership.js';
import { legacyFiles, refuseUnfinished } from '../../import/legacy-disk.js';
import { type LegacyDisk, planLegacyRestore } from '../../import/legacy-restore.js';
import { requireCatalog } from '../../repository/catalog-file.js';
import { type OpenPoint, openPoint } from '../../repository/open-point.js';
import { refuseUnsealedFiles } from '../../repository/unsealed-run.js';
import type { RestoreOptions } from './options.js';
import type { RestoreContext, RestoreDeps } from './request.js';
import { type ChainSource, sizeOf } from './read-chain.js';
import { type DefinitionSource, readDefinition } from '../../machine/domain-definition.js';

/** What a restore is to write, read from the target and proved before anything is written. */

/** What the steps of one restore share. */
export interface RestoreRun {
  readonly options: RestoreOptions;
  readonly target: string;
  /** Null where every disk has a place of its own. */
  readonly output: string | null;
  readonly owner: Owner | undefined;
  /** It, for people. */
  readonly what: string;
  /** Aborts on a signal to the tool or when the lock is lost. */
  readonly signal: AbortSignal;
  readonly warn: Warn;
  readonly context: RestoreContext;
  readonly deps: RestoreDeps;
}

/** What is to be written, proven to be what was backed up. */
export interface RestoreSource {
  readonly point: string;
  readonly disks: readonly RestoreSourceDisk[];
  /** `machine.json`, with what each disk has become. */
  readonly machine: (placed: (disk: string) => PlacedInMachine) => object;
  readonly definition: DefinitionSource | null;
  /** What the files are called in the folder. */
  readonly names: RestoredNames;
  readonly leftOut: readonly LeftOut[];
  /** Disks that the VM had and the point does not have. */
  readonly lacks: readonly LackedDisk[];
}

export interface RestoreSourceDisk {
  readonly disk: string;
  /** The target of a libvirt domain's disk. */
  readonly device: string | null;
  readonly source: ChainSource;
}

// --- with a catalog --------------------------------------------------------------------------------------------------

export async function recordedSource(run: RestoreRun, catalog: Catalog): Promise<RestoreSource> {
  const { options, target, signal, warn } = run;
  const plan = await openPoint(target, options, { catalog, signal });
  const point = plan.name;
  const parts: NameParts = { vm: vmName(options, catalog.vm), point: numberInName(plan.point, catalog) };
  const names = restoredNames(
    parts,
    plan.disks.map(({ disk }) => disk),
    options.fileName,
  );
  const lacks = lackedOf(plan, options);
  for (const { disk, reason } of lacks) warn(warning('point-lacks-disk', `${point} lacks ${disk}: ${reason}`));
  for (const disk of plan.absent.filter((each) => !lacks.some((lacked) => lacked.disk === each))) {
    warn(warning('point-lacks-disk', `${point} does not hold ${disk}, which has files in other points`));
  }
  for (const { subject, file, why } of plan.findings.filter(isDamageFinding)) {
    warn(warning('files-damaged', `${subject}/${file}: ${why}. Lost with it is ${subject} of ${point}`));
  }
  refuseFindings(plan.findings);
  const disks = plan.disks.map(({ disk, dir, entry, chain, findings }): RestoreSourceDisk => {
    const suspect = findings.find(({ code }) => code === 'suspect');
    if (suspect) warn(warning('suspect', suspect.what));
    return { disk, device: entry.source.device, source: { dir, line: chain.map((each) => each.entry) } };
  });
  const asked = { point: plan.point, called: point };
  return {
    ...{ point, disks, names, lacks, leftOut: plan.leftOut, machine: (placed) => machineRecord(plan, placed) },
    definition: await readDefinition(target, asked, options.definition, warn),
  };
}

/** What an option left out was not wanted; who names disks wants no others. */
function lackedOf({ point }: OpenPoint, { disks = [], include = [], exclude = [] }: RestoreOptions): LackedDisk[] {
  if (disks.length + include.length > 0) return [];
  return (point.lacks ?? []).filter(({ disk, kind }) => kind !== 'request' && !exclude.includes(disk));
}

/** Of a domain beside the original its own. */
function vmName({ definition }: RestoreOptions, vm: VmIdentity): string | null {
  return definition.name ?? displayName(vm);
}

/** As in `--point`, but with a dash before the number: a colon in the name of an image is a protocol for some of QEMU's tools. */
function numberInName(point: Point, catalog: Catalog): string {
  if (point.chain === null) return point.id;
  return point.chain === currentChain(catalog) ? `${point.number}` : `${point.chain}-${point.number}`;
}

// --- without one, as the Python tools leave it ------------------------------------------------------------------------

export async function legacySource(run: RestoreRun): Promise<RestoreSource> {
  const { options, target, deps, warn } = run;
  await refuseUnsealedFiles(target, undefined, null);
  const found = await legacyDisks(target, deps);
  // There is neither: say so as for any target without a backup.
  if (found.length === 0) await requireCatalog(target);
  warn(
    warning(
      'unproven',
      'there is no catalog: names and links of the files alone tell what belongs together, and nothing proves their bytes',
    ),
  );
  const plan = planLegacyRestore(found, options);
  plan.warnings.forEach(warn);
  const disks: RestoreSourceDisk[] = [];
  for (const { disk, dir, chain } of plan.disks) {
    refuseUnfinished(dir, await deps.readRebaseNote(dir));
    disks.push({ disk, device: null, source: { dir, line: await legacyFiles(dir, chain, undefined) } });
  }
  const parts: NameParts = { vm: options.definition.name, point: null };
  const names = restoredNames(
    parts,
    disks.map(({ disk }) => disk),
    options.fileName,
  );
  const machine: RestoreSource['machine'] = (placed) => ({
    schema: MACHINE_SCHEMA,
    name: null,
    uuid: null,
    disks: disks.map(({ disk, source }) => ({ disk, ...placed(disk), virtualSize: sizeOf(source) })),
  });
  const asked = { point: null, called: plan.point };
  return {
    ...{ point: plan.point, disks, names, lacks: [], leftOut: plan.leftOut, machine },
    definition: await readDefinition(target, asked, options.definition, warn),
  };
}

/** Each sub-folder with backup files is a disk; a folder that holds such files itself may hold those of several. */
async function legacyDisks(target: string, deps: RestoreDeps): Promise<readonly LegacyDisk[]> {
  const own = await deps.readLegacyFolder(target);
  const names = [...new Set(own.map(({ disk }) => disk))];
  const disks: LegacyDisk[] = names.map((name) => ({
    disk: name === '' ? basename(target) : name,
    dir: target,
    chains: own.filter(({ disk }) => disk === name),
  }));
  for (const entry of await foldersOf(target)) {
    const dir = join(target, entry.name);
    const chains = await deps.readLegacyFolder(dir);
    if (chains.length > 0) disks.push({ disk: entry.name, dir, chains });
  }
  return disks;
}

async function foldersOf(target: string): Promise<readonly Dirent[]> {
  const entries = await readdir(target, { withFileTypes: true });
  return entries.filter((entry) => entry.isDirectory() && !entry.name.startsWith('.'));
}

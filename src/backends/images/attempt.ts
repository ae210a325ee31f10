import { type Catalog, CATALOG_SCHEMA, type Journal } from '../../core/catalog.js';
import { knownDisks } from '../../core/chain.js';
import type { VmState } from '../../core/disk.js';
import { DEFINITION_FOLDER } from '../../core/names.js';
import type { NbdSource } from '../../core/nbd-address.js';
import type { PlannedDisk } from '../../core/plan.js';
import { messageOf, QmpBackupError } from '../../errors.js';
import { eachDisk } from '../../flow/all-of.js';
import { NbdClient } from '../../nbd/client.js';
import { offlineNode, refusingWriters } from '../../qemu-tools/offline-image.js';
import { type QemuNbd, startQemuNbd } from '../../qemu-tools/qemu-nbd.js';
import { readJournal, writeJournal } from '../../repository/journal-file.js';
import { temporaryFolder } from '../../repository/scratch-place.js';
import { makeScratch, removeScratch } from '../../repository/scratch.js';
import type { Staging } from '../../repository/staging.js';
import { newJournal } from '../attempt/attempt-journal.js';
import { compareWithInstant } from '../attempt/compare-with-instant.js';
import { removeFilesOfFailed, setFailedAside } from '../attempt/failed-disks.js';
import { pullDisks, type PulledDisk } from '../attempt/pull-disks.js';
import { sealPoint } from '../attempt/seal-point.js';
import { stageImage } from '../attempt/stage-image.js';
import { undoAttempt } from '../attempt/undo-attempt.js';
import type { Done } from '../backend.js';
import type { BackupRun, Planned } from '../backup-run.js';
import { bitmapsOfDead, repairOffline } from './repair.js';
import type { DefinitionToTake, OfflineVm } from './vm.js';

/**
 * Journal, every image open, staging, pull, seal. The instant is when the last image is open: from then on none of them
 * can change.
 */
export async function attemptOfflinePoint(
  run: BackupRun,
  offline: OfflineVm,
  found: Planned,
  staging: Staging,
  vm: VmState,
): Promise<Done> {
  const { options, context } = run;
  run.signal.throwIfAborted();
  const servers: QemuNbd[] = [];
  const folder = temporaryFolder(run.attempt);
  try {
    const left = await leftByDeadRun(run, found.catalog);
    const planned = rememberedBy(run, found, left, offline);
    const asked = offline.definition && (await offline.definition.plan(run.target, context.now()));
    const journal = journalOf(run, planned, folder, left, asked);
    await writeJournal(run.target, journal);
    await makeScratch(folder, undefined);
    const opened: Pick<PulledDisk, 'planned' | 'source'>[] = [];
    for (const disk of planned.plan.disks) {
      opened.push({ planned: disk, source: await open(run, offline, disk, folder, servers) });
    }
    const sealDefinition = asked && (await asked.take());
    const instant = { at: context.now().toISOString(), consistency: offline.consistency, ...UNDISTURBED };
    context.report({ kind: 'started', instant });
    const compressionType = options.compress ? 'zstd' : null;
    const disks = await eachDisk(opened, async (disk): Promise<PulledDisk> => {
      const path = await stageImage(staging, disk.planned, { compressionType, signal: run.signal });
      return { ...disk, path, bitmap: disk.planned.copyBitmap };
    });
    const { outcomes, failed } = await pullDisks(run, disks, folder);
    const whole = setFailedAside(run, planned, disks, failed);
    if (options.verify !== null) {
      for (const disk of whole.staged) await compareWithInstant(run, planned, disk, disk.source);
    }
    for (const server of servers) await server.kill();
    await removeScratch(folder);
    await removeFilesOfFailed(run, journal, planned, failed);
    context.report({ kind: 'sealing' });
    const definition = async () => sealDefinition && sealDefinition(staging, run.warn);
    const sealed = await sealPoint(run, whole.planned, staging, whole.staged, { vm, instant, outcomes }, definition);
    return { ...sealed, ...UNDISTURBED };
  } catch (error) {
    for (const server of servers) await server.kill();
    // Here and not by the journal alone: the target may be what is gone.
    await removeScratch(folder).catch((failure: unknown) => run.warn(messageOf(failure)));
    throw await undoAttempt(run, error, { thawed: true }, async (target) => {
      (await repairOffline(target, vm)).warnings.forEach(run.warn);
    });
  }
}

const UNDISTURBED = { transactionMs: 0, freeze: null, pausedMs: null };

interface DeadRun {
  readonly monitor: string;
  readonly disks: Journal['disks'];
}

async function leftByDeadRun({ target }: BackupRun, catalog: Catalog | undefined): Promise<DeadRun> {
  const journal = await readJournal(target);
  return { monitor: journal?.monitor ?? '', disks: bitmapsOfDead({ journal, catalog }) };
}

/**
 * The plan with what the catalog remembers: of a disk that is known, how the running VM names it, and of a run that
 * died, the bitmaps that it may have left in the images, as retired ones.
 */
function rememberedBy(
  { options, identity, context }: BackupRun,
  planned: Planned,
  { disks: left }: DeadRun,
  { namedByCatalog }: OfflineVm,
): Planned {
  const { catalog, plan, targetId } = planned;
  const known = knownDisks(catalog);
  const named = (disk: PlannedDisk): PlannedDisk => {
    const { device, qdev, node } = known.get(disk.disk)?.source ?? disk.source;
    return { ...disk, source: { ...disk.source, device, qdev, node: node ?? disk.source.node } };
  };
  const stray = left.flatMap(({ bitmap }) => (bitmap === null ? [] : [bitmap]));
  const fresh = {
    ...{ schema: CATALOG_SCHEMA as typeof CATALOG_SCHEMA, tool: options.tool, targetId, vm: identity },
    ...{ createdAt: context.now().toISOString(), points: [], retired: [] },
  };
  const before = catalog ?? (stray.length > 0 ? fresh : undefined);
  return {
    ...planned,
    // libvirt says itself where a disk of a domain is, also after that was changed.
    plan: namedByCatalog ? { ...plan, disks: plan.disks.map(named) } : plan,
    catalog: before && { ...before, retired: [...new Set([...before.retired, ...stray])] },
  };
}

function journalOf(
  run: BackupRun,
  { plan }: Planned,
  folder: string,
  left: DeadRun,
  definition: DefinitionToTake | null,
): Journal {
  return {
    // Nothing of this run is in any QEMU.
    ...newJournal(run, left.disks.length > 0 ? left.monitor : '', ' of a VM that is off'),
    disks: [
      ...plan.disks.map(({ disk, file, job }) => ({ disk, bitmap: null, job, file })),
      ...(definition ? definition.journalled(run.attempt) : []),
      ...left.disks,
    ],
    madeFolders: [...plan.disks.map(({ disk }) => disk), ...(definition ? [DEFINITION_FOLDER] : [])],
    scratch: [folder],
  };
}

/** Serves one image, read-only: as long as it does, no QEMU can open it for writing. */
async function open(
  run: BackupRun,
  { imageOf }: OfflineVm,
  { source, copyBitmap }: PlannedDisk,
  folder: string,
  servers: QemuNbd[],
): Promise<NbdSource> {
  const file = await imageOf(source);
  const server = await refusingWriters(source.file, () =>
    startQemuNbd({
      node: offlineNode(file),
      ...{ readOnly: true, persistent: true, folder, signal: run.signal },
      ...(copyBitmap === null ? {} : { bitmap: copyBitmap }),
    }),
  );
  servers.push(server);
  const address = { kind: 'unix' as const, path: server.socketPath };
  const client = await NbdClient.connect(address, { signal: run.signal });
  const { size } = client.export;
  await client.close();
  if (size !== Math.ceil(source.virtualSize / 512) * 512) {
    throw new QmpBackupError('failed', `${source.file} was changed while the backup began`, {
      hint: 'Nothing was kept of this run. Run it again.',
    });
  }
  return { address, exportName: '' };
}

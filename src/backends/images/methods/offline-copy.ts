import { knownDisks } from '../../../core/chain.js';
import type { VmState } from '../../../core/disk.js';
import type { FailedCopy } from '../../../core/failed-copies.js';
import type { Journal, JournalOwner } from '../../../core/journal.js';
import { DEFINITION_FOLDER } from '../../../core/names.js';
import { nbdNode } from '../../../core/block-node.js';
import type { NbdSource } from '../../../core/nbd-address.js';
import type { PlannedDisk } from '../../../core/plan.js';
import type { Consistency } from '../../../core/point.js';
import { type Warning, warning } from '../../../core/warning.js';
import { messageOf, QmpBackupError } from '../../../errors.js';
import { NbdClient } from '../../../nbd/client.js';
import { readInFull } from '../../../qemu-tools/image-view.js';
import { offlineNode, refusingWriters } from '../../../qemu-tools/offline-image.js';
import { type QemuNbd, startQemuNbd } from '../../../qemu-tools/qemu-nbd.js';
import { temporaryFolder } from '../../../repository/scratch-place.js';
import { makeScratch, removeScratch } from '../../../repository/scratch.js';
import type { Staging } from '../../../repository/staging.js';
import type { TargetState } from '../../../repository/target.js';
import type { BackupRun, Planned } from '../../backup-run.js';
import type { Begun, Copies, CopyAttempt, CopyMethod, Ended, GivenUp, StagedImage } from '../../copy-method.js';
import { newJournal } from '../../methods/attempt-journal.js';
import { chainBelow } from '../../methods/chain-below.js';
import { compareWithInstant } from '../../methods/compare-with-instant.js';
import { removeFilesOfFailed } from '../../methods/failed-disks.js';
import { type LeftByDeadRun, leftByDeadRun, retiring } from '../../methods/left-by-dead-run.js';
import { pullDisks } from '../../methods/pull-disks.js';
import type { PulledDisk } from '../../methods/pulled-disk.js';
import { repairOffline } from '../../repair-offline.js';
import type { DefinitionToTake, OfflineVm } from '../vm.js';

/** The images are served read-only, by which no QEMU can open them for writing, and read by our own hands. */
export function offlineCopy(offline: OfflineVm, found: Planned): CopyMethod {
  return {
    fleecing: FLEECING,
    start: async (run, vm) => {
      const left = await leftByDeadRun(run, found.catalog);
      const planned = retiring(run, rememberedBy(found, offline), left);
      const definition =
        offline.definition &&
        (await offline.definition.plan({ target: run.target, catalog: found.catalog }, run.context.now()));
      const folder = temporaryFolder(run.attempt);
      const journal = journalOf(run, planned, folder, left, definition);
      return new OfflineCopy(run, offline, { planned, definition, folder, journal }, vm);
    },
  };
}

const FLEECING = { fleece: false, why: 'the VM is off, so nothing overwrites what is copied' } as const;

interface OfflineAttempt {
  readonly planned: Planned;
  readonly definition: DefinitionToTake | null;
  /** Of scratch files; absolute. */
  readonly folder: string;
  readonly journal: Journal;
}

class OfflineCopy implements CopyAttempt {
  readonly planned: Planned;
  readonly fleecing = FLEECING;
  readonly journal: Journal;
  readonly atStake = null;
  readonly freezer = null;
  readonly keepsBitmapsOfFailed = false;
  readonly qemuWrites = false;
  readonly compressionType: 'zstd' | null;
  readonly #run: BackupRun;
  readonly #offline: OfflineVm;
  readonly #attempt: OfflineAttempt;
  readonly #vm: VmState;
  readonly #servers: QemuNbd[] = [];
  #disks: readonly PulledDisk[] = [];
  #sealDefinition: Awaited<ReturnType<DefinitionToTake['take']>> | null = null;

  constructor(run: BackupRun, offline: OfflineVm, attempt: OfflineAttempt, vm: VmState) {
    this.planned = attempt.planned;
    this.journal = attempt.journal;
    this.compressionType = run.options.compress ? 'zstd' : null;
    this.#run = run;
    this.#offline = offline;
    this.#attempt = attempt;
    this.#vm = vm;
  }

  /** The instant is when the last image is open: from then on none of them can change. */
  async prepare(staged: readonly StagedImage[]): Promise<void> {
    const { folder } = this.#attempt;
    await makeScratch(folder, undefined);
    const disks: PulledDisk[] = [];
    for (const image of staged) {
      const source = await open(this.#run, this.#offline, image.planned, folder, this.#servers);
      const below = chainBelow(this.#run.target, this.planned, image.planned);
      disks.push({ ...image, source, below, bitmap: image.planned.copyBitmap });
    }
    this.#disks = disks;
  }

  begin(): Promise<Begun> {
    return Promise.resolve({ transactionMs: 0, pausedMs: null });
  }

  async begun(): Promise<Consistency> {
    this.#sealDefinition = this.#attempt.definition && (await this.#attempt.definition.take());
    return this.#offline.consistency;
  }

  copy(): Promise<Copies> {
    return pullDisks(this.#run, this.#disks, this.#attempt.folder);
  }

  async verify(images: readonly StagedImage[]): Promise<void> {
    for (const disk of this.#disks.filter(({ path }) => images.some((image) => image.path === path))) {
      await compareWithInstant(this.#run, this.planned, disk, readInFull(nbdNode(disk.source)));
    }
  }

  async end(staging: Staging, failed: readonly FailedCopy[]): Promise<Ended> {
    await this.#endServers();
    await removeScratch(this.#attempt.folder);
    await removeFilesOfFailed(this.#run, this.journal, this.planned, failed);
    const definition = this.#sealDefinition && (await this.#sealDefinition(staging, this.#run.warn));
    return { definition, hardware: null, stuck: [] };
  }

  async giveUp(failure: unknown): Promise<GivenUp> {
    await this.#endServers();
    // Here and not by the journal alone: the target may be what is gone.
    await removeScratch(this.#attempt.folder).catch((error: unknown) =>
      this.#run.warn(warning('left-behind', messageOf(error))),
    );
    return { failure, thawed: true };
  }

  async undo(target: TargetState): Promise<readonly Warning[]> {
    return (await repairOffline(target, this.#vm)).warnings;
  }

  explain(failure: unknown): unknown {
    return failure;
  }

  async #endServers(): Promise<void> {
    for (const server of this.#servers) await server.kill();
  }
}

const NO_VM: JournalOwner = { kind: 'none' };

/** The plan with what the catalog remembers: of a disk that is known, how the running VM names it. */
function rememberedBy(planned: Planned, { namedByCatalog }: OfflineVm): Planned {
  const { catalog, plan } = planned;
  const known = knownDisks(catalog);
  const named = (disk: PlannedDisk): PlannedDisk => {
    const remembered = known.get(disk.disk)?.source;
    if (!remembered) return disk;
    const { device, qdev, node } = remembered;
    return { ...disk, source: { ...disk.source, device, qdev, address: node ?? disk.source.address } };
  };
  // libvirt says itself where a disk of a domain is, also after that was changed.
  return namedByCatalog ? { ...planned, plan: { ...plan, disks: plan.disks.map(named) } } : planned;
}

function journalOf(
  run: BackupRun,
  { plan }: Planned,
  folder: string,
  left: LeftByDeadRun,
  definition: DefinitionToTake | null,
): Journal {
  return {
    // Nothing of this run is in any QEMU.
    ...newJournal(run, left.disks.length > 0 ? left.owner : NO_VM, ' of a VM that is off'),
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

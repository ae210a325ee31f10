import { dirname, join, resolve } from 'node:path';
import { fileNode, nbdNode, qcow2Node, type BlockNodeSpec } from '../../../core/block-node.js';
import type { SourceDisk, VmState } from '../../../core/disk.js';
import type { NbdSource } from '../../../core/nbd-address.js';
import { layersOf } from '../../../core/overlay-layers.js';
import { isTrackingOverlay, passingOverlay } from '../../../core/overlay-names.js';
import { inMemoryInWords, overlaysAreTight, overlaySpaceInWords, WHEN_TIGHT } from '../../../core/overlay-space.js';
import type { PlannedDisk } from '../../../core/plan.js';
import { virshCommand } from '../../../core/virsh-hint.js';
import { warning } from '../../../core/warning.js';
import { messageOf, QmpBackupError } from '../../../errors.js';
import { isInMemory } from '../../../host/mounts.js';
import type { CopyGuard } from '../../../guards/copy-guard.js';
import { startOverlayGuard } from '../../../guards/overlay-guard.js';
import { parseDomain } from '../../../libvirt/domain-xml.js';
import type { ImageLayers } from '../../../libvirt/image-layers.js';
import {
  layersIfAttached,
  layersNow,
  mergeAllOverlays,
  mergeOverlay,
  type CommitPace,
} from '../../../libvirt/merge-overlays.js';
import { recordOverlays } from '../../../libvirt/still-images.js';
import { takeSnapshot } from '../../../libvirt/snapshot.js';
import { OWN_CLUSTERS } from '../../../nbd/meta-contexts.js';
import { imageFile } from '../../../qemu-tools/image-file.js';
import { readInFull } from '../../../qemu-tools/image-view.js';
import { offlineNode } from '../../../qemu-tools/offline-image.js';
import { type QemuNbd, startQemuNbd } from '../../../qemu-tools/qemu-nbd.js';
import { scratchPlace, TEMPORARY, temporaryFolder } from '../../../repository/scratch-place.js';
import type { BackupOptions } from '../../backup-options.js';
import type { Planned } from '../../backup-run.js';
import type { StagedImage } from '../../copy-method.js';
import { chainBelow } from '../../methods/chain-below.js';
import { compareWithInstant } from '../../methods/compare-with-instant.js';
import { pullDisks } from '../../methods/pull-disks.js';
import type { PulledDisk } from '../../methods/pulled-disk.js';
import type { DomainCopy, DomainMethod, DomainRun } from '../domain-method.js';
import { overlayObstacles } from '../overlay-obstacles.js';
import { overlaySpaces } from '../overlay-space.js';

/**
 * The guest writes to overlays, taken of all disks at one instant, and what is below them stands still and is copied. Then each
 * overlay goes down into its image; with `--track overlay` it stays instead, and is the next run's increment.
 */
export function overlayMethod(track: BackupOptions['track']): DomainMethod {
  return {
    fleecing: { fleece: false, why: 'the guest writes to overlays while the images below them are copied' },
    tracks: track === 'overlay' ? 'overlay' : 'none',
    qemuWrites: false,
    refuse: () => undefined,
    riskOf: () => null,
    refuseDomain: (run, planned) => refuseDomain(run, planned),
    copyFor: overlayCopy,
  };
}

/** The domain as a run by this method plans for it. */
export function plannedByOverlay(vm: VmState, tracks: DomainMethod['tracks']): VmState {
  const tracked = (disk: SourceDisk): SourceDisk =>
    tracks === 'overlay' ? { ...disk, tracking: 'overlay' } : { ...disk, cannotTrack: NOT_TRACKED };
  return tracks === 'checkpoint' ? vm : { ...vm, disks: vm.disks.map(tracked) };
}

const NOT_TRACKED = 'by --method overlay nothing begins to track changes (--track overlay does)';

async function refuseDomain({ session, options }: DomainRun, { plan }: Planned): Promise<void> {
  const refuse = (words: string, ...hint: readonly (string | null)[]): never => {
    throw new QmpBackupError('unsafe', `--method overlay: ${words}`, {
      hint: ['Nothing was changed.', ...hint].filter((each) => each !== null).join(' '),
    });
  };
  const without = (disk: string): string => `Leave the disk out with --exclude ${disk}.`;
  const [obstacle] = await overlayObstacles(session, plan.disks);
  if (obstacle) {
    const { disk, what, todo } = obstacle;
    refuse(what, todo, disk === null ? null : without(disk));
  }
  for (const { disk, source } of plan.disks) {
    if (source.encrypted)
      refuse(`${disk} is encrypted, and only the VM has its key`, '--method pull can read it.', without(disk));
    if (options.track === 'overlay' && options.overlayDir === null && placeOf(options, source) === TEMPORARY) {
      refuse(
        `${disk} is a device, and its overlay would lie in ${TEMPORARY}`,
        'Name a folder that lasts with --overlay-dir.',
      );
    }
  }
}

function placeOf({ overlayDir }: Pick<BackupOptions, 'overlayDir'>, source: SourceDisk): string {
  return scratchPlace(overlayDir === null ? null : resolve(overlayDir), source);
}

/** Of one disk. */
interface Overlaid {
  readonly planned: PlannedDisk;
  readonly target: string;
  readonly name: string;
  /** Absolute path of the new overlay. */
  readonly path: string;
  /** The images that stand still below it, the uppermost first. */
  still: ImageLayers;
}

function overlayCopy(run: DomainRun, planned: Planned): DomainCopy {
  const { virsh, uuid, domain } = run.session;
  const tracks = run.options.track === 'overlay';
  const folder = temporaryFolder(run.attempt);
  const disks = planned.plan.disks.map((disk): Overlaid => {
    const { source, newBitmap } = disk;
    const name = newBitmap?.name ?? passingOverlay(run.attempt, source.address);
    const path = join(placeOf(run.options, source), name);
    const still: ImageLayers = [{ path: source.file, description: source.file, format: source.format }];
    return { planned: disk, target: source.address, name, path, still };
  });
  const places = [...new Set(disks.map(({ path }) => dirname(path)))];
  const of = ({ planned: { disk } }: StagedImage): Overlaid => {
    const found = disks.find((each) => each.planned.disk === disk);
    if (found) return found;
    throw new QmpBackupError('failed', `${disk} is not in the plan`);
  };
  // Also those that were plugged in since the domain was looked at, to which libvirt would give overlays of its own choice.
  let attached: readonly string[] = domain.disks.map(({ target }) => target);
  const servers: QemuNbd[] = [];
  const serve = async (node: BlockNodeSpec, ownClusters: boolean): Promise<NbdSource> => {
    const server = await startQemuNbd({
      node,
      ownClusters,
      readOnly: true,
      persistent: true,
      folder,
      signal: run.signal,
    });
    servers.push(server);
    return { address: { kind: 'unix', path: server.socketPath }, exportName: '' };
  };
  /** What serves is in the way of a commit. */
  const closeServers = async (): Promise<void> => {
    await opening.catch(() => undefined);
    for (const server of servers) await server.kill();
  };
  let opening: Promise<readonly PulledDisk[]> = Promise.resolve([]);
  const openAll = async (staged: readonly StagedImage[]): Promise<readonly PulledDisk[]> => {
    const opened: PulledDisk[] = [];
    for (const image of staged) {
      run.signal.throwIfAborted();
      const disk = of(image);
      await requireAbove(run, disk);
      const since = recordOf(disk);
      const source = since ? await serve(ownLayers(since), true) : await serve(await wholeOf(disk), false);
      const below = chainBelow(run.target, planned, image.planned);
      opened.push({ ...image, source, bitmap: since ? OWN_CLUSTERS : null, below });
    }
    return opened;
  };
  /** The guest is on what was there before this run. Resolves to the disks that are attached no more, whose overlays stay. */
  const takeBack = async (options?: CommitPace): Promise<readonly Overlaid[]> => {
    const detached: Overlaid[] = [];
    for (const disk of disks) {
      if (!(await mergeOverlay(run.session, disk.target, disk.name, options))) detached.push(disk);
    }
    return detached;
  };
  return {
    folders: [folder],
    places,
    overlays: disks.map(({ target, path }) => ({ target, path })),
    // After the repairs, which may have merged what a run that died has left.
    ready: async () => {
      for (const disk of disks) disk.still = await layersNow(run.session, disk.target);
      attached = parseDomain(await virsh('dumpxml', [], { domain: uuid })).disks.map(({ target }) => target);
      if (!tracks) return;
      await warnWhereTight(run, planned);
      for (const folder of places.filter(isInMemory)) run.warn(warning('overlay-in-memory', inMemoryInWords(folder)));
    },
    begin: () =>
      takeSnapshot(virsh, uuid, {
        disks: disks.map(({ target, path }) => ({ target, overlay: path })),
        without: attached.filter((each) => !disks.some(({ target }) => target === each)),
      }),
    adviceFor: (words) =>
      /No such file or directory|Not a directory|Permission denied|Read-only/.test(words)
        ? 'The folder of the overlays (--overlay-dir) must be there, and QEMU must be able to write there.'
        : null,
    finish: async (staged) => {
      if (tracks)
        await recordOverlays(
          run.session,
          disks.map(({ path }) => path),
        );
      opening = openAll(staged);
      const copies = await pullDisks(run, await opening, folder);
      for (const disk of disks) await requireAbove(run, disk);
      return copies;
    },
    verify: async (images) => {
      for (const image of images) {
        const whole = await serve(await wholeOf(of(image)), false);
        await compareWithInstant(run, planned, image, readInFull(nbdNode(whole)));
      }
    },
    end: async () => {
      await closeServers();
      if (tracks) return;
      // The point is right whatever becomes of this.
      const slowly = { rate: run.options.speedLimit, hurry: run.signal };
      try {
        for (const disk of await takeBack(slowly)) {
          const words = `${disk.target} was detached before its overlay was merged`;
          run.warn(warning('overlay-left', `${words}. ${attachByOverlay(disk)}`));
        }
      } catch (error) {
        run.warn(warning('overlay-left', leftInWords(run, error)));
      }
    },
    // One that tracks has overlays that stay, as after any run.
    ...(tracks ? {} : { guard: (resumes) => guardOf(run, disks, resumes) }),
    giveUp: async () => {
      await closeServers();
      try {
        await takeBack();
      } catch (error) {
        if (!tracks || !(error instanceof QmpBackupError) || error.code !== 'failed') throw error;
        // As where the folder of the overlays is full: the images themselves need no space that they have not had before.
        run.warn(
          warning(
            'overlay-left',
            `${messageOf(error)}; so all overlays go down into the images, and the next backup is full`,
          ),
        );
        for (const { target } of disks) await mergeAllOverlays(run.session, target);
      }
    },
  };
}

async function warnWhereTight({ warn }: DomainRun, { plan }: Planned): Promise<void> {
  for (const space of await overlaySpaces(plan.disks.map(({ source }) => source))) {
    if (overlaysAreTight(space)) warn(warning('space-short', `${overlaySpaceInWords(space)}: ${WHEN_TIGHT}`));
  }
}

function leftInWords({ session: { domain } }: DomainRun, error: unknown): string {
  const todo = `the next run or recover does it; see: ${virshCommand(domain.connect, 'domblklist', domain.name)}`;
  return `the guest still writes to an overlay of this run: ${messageOf(error)}; ${todo}`;
}

function guardOf(run: DomainRun, disks: readonly Overlaid[], resumes: boolean): CopyGuard {
  const { connect, uuid } = run.session;
  const overlays = disks.map(({ target, name }) => ({ target, name }));
  return startOverlayGuard(
    { connect, uuid, overlays, resumes },
    { warn: (text) => run.warn(warning('no-guard', text)) },
  );
}

/** The layers that hold what has changed since the parent, the uppermost first; null where all is to be copied. */
function recordOf({ planned: { copyBitmap }, still }: Overlaid): ImageLayers | null {
  if (copyBitmap === null || !isTrackingOverlay(copyBitmap)) return null;
  const depth = layersOf(still).overlays.find(({ name }) => name === copyBitmap)?.depth;
  return depth === undefined ? null : [still[0], ...still.slice(1, depth + 1)];
}

/** Overlays of ours as one image that builds on nothing. */
function ownLayers([top, next, ...more]: ImageLayers): BlockNodeSpec {
  return qcow2Node(fileNode(top.path ?? top.description), next ? ownLayers([next, ...more]) : null);
}

/** A disk as it was at the instant. */
async function wholeOf({ still: [top] }: Overlaid): Promise<BlockNodeSpec> {
  return offlineNode(await imageFile({ path: top.path ?? top.description, format: top.format }));
}

function attachByOverlay({ target, path }: Overlaid): string {
  return `What the guest wrote to ${target} last is in ${path}: attach the disk by that file, never by the image below it alone.`;
}

/** Somebody else may commit an overlay, by which what is below it moves. */
async function requireAbove({ session }: DomainRun, disk: Overlaid): Promise<void> {
  const { target, path, still } = disk;
  const now = await layersIfAttached(session, target);
  if (now === null) {
    throw new QmpBackupError('failed', `${target} was detached while it was copied`, {
      hint: `No point was made, and the other disks are as they were; the next run goes on with them. ${attachByOverlay(disk)}`,
    });
  }
  if (now[0].path === path && now[1]?.path === still[0].path) return;
  throw new QmpBackupError('failed', `somebody has changed the images of ${target} while they were copied`, {
    hint: `No point was made. See what it runs on: ${virshCommand(session.domain.connect, 'domblklist', session.domain.name)}`,
  });
}

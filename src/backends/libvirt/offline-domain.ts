import { isSurelyExcluded, withAskedFor } from '../../core/choose-disks.js';
import type { SourceDisk } from '../../core/disk.js';
import { isFailure } from '../../core/failure.js';
import { type Connect, virshCommand } from '../../core/virsh-hint.js';
import { QmpBackupError } from '../../errors.js';
import { eachDisk } from '../../flow/all-of.js';
import { collectFailure } from '../../flow/collect-failure.js';
import type { DomainDisk } from '../../libvirt/domain-xml.js';
import { hasManagedSave } from '../../libvirt/lifecycle.js';
import type { ImageFile } from '../../qemu-tools/image-file.js';
import type { BackupOptions } from '../backup-options.js';
import { offlineSource } from '../images/source.js';
import type { OfflineVm } from '../images/vm.js';
import { definitionOf } from './definition.js';
import { missingOverlay } from './missing-overlay.js';
import { domainImage, isImage } from './offline-image.js';
import { type BackupSession, type DomainSession, sourceOf, vmStateOf } from './session.js';

/** A domain that is off: its images tell what libvirt cannot, whether the bitmaps of its checkpoints are whole. */
export async function offlineDomain(
  session: BackupSession,
  choice: Choice,
  interrupt: AbortSignal,
): Promise<OfflineVm> {
  const { domain, uuid } = session;
  const { state, saved, instead } = await inspectOfflineDomain(session, choice, interrupt);
  return {
    state,
    signal: session.signal,
    definition: definitionOf(session),
    namedByCatalog: false,
    subject: `the domain ${domain.name} (${uuid})`,
    consistency: saved ? 'crash' : 'offline',
    unclean: saved ? 'its memory is saved apart (virsh managedsave)' : null,
    imageOf: (disk) => imageOf(session, disk, instead),
    unlocked: domain.disks.flatMap(({ target, source }) => (source?.network ? [target] : [])),
    instead,
  };
}

export interface OfflineDomainState {
  readonly state: DomainSession['state'];
  /** Its memory is saved (virsh managedsave). */
  readonly saved: boolean;
  /** What else can be done with a disk that cannot be read as it lies. */
  readonly instead: string;
}

/** As a backup sees it, and `doctor`. What cannot be read is no error yet: which disks are asked for is decided later. */
export async function inspectOfflineDomain(
  session: DomainSession,
  choice: Choice,
  interrupt: AbortSignal,
): Promise<OfflineDomainState> {
  const { virsh, uuid, domain } = session;
  const signal = AbortSignal.any([session.signal, interrupt]);
  // What only the started domain tells of is in the plan of a dry run, too.
  const described = choice.startPaused ? vmStateOf({ ...domain, sizes: withAnySize(domain) }) : withMissing(session);
  const state = withAskedFor(described, choice);
  const saved = await hasManagedSave(virsh, uuid);
  const instead = saved ? 'start the domain' : 'start the domain paused for it: --start-paused';
  const disks = await eachDisk(state.disks, async (disk): Promise<SourceDisk> => {
    // What is left out may be in use, or gone.
    if (disk.unreadable || isSurelyExcluded(disk, choice)) return disk;
    const seen = await collectFailure(offlineDiskOf(session, disk, { instead, signal }));
    signal.throwIfAborted();
    if (!isFailure(seen)) return seen;
    // What cannot be read as it lies, its own QEMU reads; the start itself tells what is wrong with it.
    if (choice.startPaused) return disk;
    return { ...disk, bitmaps: [], unreadable: { why: seen.failed, todo: seen.hint ?? '' } };
  });
  return {
    state: { ...state, disks: await eachDisk(disks, (disk) => withMissingOverlay(session, disk)) },
    saved,
    instead,
  };
}

async function withMissingOverlay({ domain }: DomainSession, disk: SourceDisk): Promise<SourceDisk> {
  const defined = disk.unreadable && domain.disks.find(({ target }) => target === disk.address);
  const missing = defined && (await missingOverlay(defined));
  return missing ? { ...disk, unreadable: missing } : disk;
}

type Choice = Pick<BackupOptions, 'include' | 'exclude' | 'startPaused'>;

function withAnySize({ disks, sizes }: DomainSession['domain']): DomainSession['domain']['sizes'] {
  const none = { capacity: 0, allocation: 0, physical: null };
  return new Map(disks.map(({ target, source }) => [target, sizes.get(target) ?? (source === null ? null : none)]));
}

type Asked = Pick<SourceDisk, 'address' | 'file'>;

async function imageOf({ domain }: DomainSession, { address, file }: Asked, instead: string): Promise<ImageFile> {
  const disk = domain.disks.find(({ target }) => target === address);
  const image = disk ? await domainImage(disk, domain) : { why: `the domain has no disk ${address}` };
  if (isImage(image)) return image;
  throw new QmpBackupError('unsafe', `${address} (${file}) cannot be read while the domain is off: ${image.why}`, {
    hint: `Nothing was changed. Leave the disk out with --exclude ${address}, or ${instead}`,
  });
}

async function offlineDiskOf(
  session: DomainSession,
  disk: SourceDisk,
  { instead, signal }: { readonly instead: string; readonly signal: AbortSignal },
): Promise<SourceDisk> {
  const { address: name, cannotTrack } = disk;
  const image = await imageOf(session, disk, instead);
  // The catalog knows the disk by the name that it has when the domain runs.
  return { ...(await offlineSource({ name, named: false, image, cannotTrack }, signal)), file: disk.file };
}

/** libvirt leaves out what it cannot read; of storage that is not mounted a backup without it would say nothing. */
function withMissing({ domain, state }: DomainSession): DomainSession['state'] {
  const missing = domain.disks.filter(
    ({ target, device, source, readOnly, transient }) =>
      device === 'disk' && source && !readOnly && !transient && !domain.sizes.get(target),
  );
  const gone = missing.map((disk): SourceDisk => {
    const { path, description } = disk.source ?? { path: null, description: '' };
    const why = domain.unsized.get(disk.target);
    const words = `the image of ${disk.target} cannot be read: ${path ?? description}${why === undefined ? '' : `: ${why}`}`;
    const todo = `Nothing was changed. ${whatToDo(disk, domain.connect)} Or leave it out: --exclude ${disk.target}`;
    return { ...sourceOf(disk, domain), bitmaps: [], unreadable: { why: words, todo } };
  });
  const names = new Set(missing.map(({ target }) => target));
  return {
    ...state,
    disks: [...state.disks, ...gone],
    leftOut: state.leftOut.filter(({ name }) => !names.has(name)),
  };
}

function whatToDo({ source }: DomainDisk, connect: Connect): string {
  if (source?.volume) return `See that its pool is active: ${virshCommand(connect, 'pool-start', source.volume.pool)}.`;
  if (source?.network) return 'See that its server answers; what only libvirt can reach is read with --start-paused.';
  return 'See whether its storage is mounted.';
}

import { QmpBackupError } from '../errors.js';
import type { DiskNames, LeftOut, SourceDisk, VmState } from './disk.js';
import { explicitNode, type KnownSource } from './match-disks.js';

/** Which disks a backup is asked for: the one place where a name that a person gives meets a disk. */
export interface DiskRequest {
  /** Disk ids, device names, nodes, guest devices or file names; empty means all. */
  readonly include: readonly string[];
  readonly exclude: readonly string[];
  readonly excludeRaw: boolean;
  readonly allowPlaintext: boolean;
  /** Seal the others where a disk cannot be copied. */
  readonly skipFailed: boolean;
}

type Names = Pick<DiskRequest, 'include' | 'exclude'>;

/** A disk whose id is told by the catalog, which may not have been read yet. */
type Named = Pick<KnownSource, 'source'> & Partial<KnownSource>;

interface Choice {
  readonly request: DiskRequest;
  readonly known: readonly KnownSource[];
  readonly vm: Pick<VmState, 'leftOut'>;
}

/** @throws QmpBackupError `usage` for a name that fits no disk, or two */
export function chooseDisks({ request, known, vm }: Choice): {
  readonly chosen: readonly KnownSource[];
  readonly leftOut: readonly LeftOut[];
} {
  for (const name of request.include) findOne('--include', name, known, vm.leftOut);
  for (const name of request.exclude) findOne('--exclude', name, known, vm.leftOut);
  const leftOut = vm.leftOut.map((out): LeftOut => {
    const byHand = out.kind === 'rule' && request.exclude.some((name) => isCalled(out, name));
    return byHand ? { name: out.name, reason: EXCLUDED, kind: 'request' } : out;
  });
  const chosen = known.filter((disk) => {
    const reason = whyLeftOut(request, disk);
    if (reason) leftOut.push({ name: disk.id, reason, kind: 'request' });
    return !reason;
  });
  if (chosen.length === 0) {
    throw new QmpBackupError('unsafe', 'there is no disk to back up', {
      hint: leftOut.map(({ name, reason }) => `${name}: ${reason}`).join('; ') || 'The VM has no block devices.',
    });
  }
  return { chosen, leftOut };
}

function findOne(
  option: '--include' | '--exclude',
  name: string,
  known: readonly KnownSource[],
  leftOut: readonly LeftOut[],
): void {
  const [disk, ...others] = known.filter((each) => answersTo(each, name));
  if (others.length > 0)
    throw ambiguous(
      option,
      name,
      [disk, ...others].flatMap((each) => each ?? []),
    );
  if (disk) return;
  const out = leftOut.find((each) => isCalled(each, name));
  // What is left out anyway may be excluded, too: a line in cron must go on working when its disk is gone.
  if (out && option === '--exclude') return;
  const disks = known.map(({ id }) => id).join(', ') || 'none';
  throw new QmpBackupError('usage', `${option} ${name}: ${out?.reason ?? 'the VM has no such disk'}`, {
    hint: out?.instead ?? `Its disks are: ${disks}. See: qmpbackup info --show blockdev`,
  });
}

function isCalled({ name: own, offer }: LeftOut, name: string): boolean {
  return own === name || (offer !== undefined && answersTo(offer, name));
}

/** Ids stay with the images, device names with their places: where disks changed places, one's name is the other's, too. */
function ambiguous(option: string, name: string, disks: readonly Named[]): QmpBackupError {
  const fits = disks.map(({ id, source }) => {
    const called = id ?? source.device ?? source.address;
    return `${called} (${[source.device ?? source.qdev ?? source.address, source.file].join(', ')})`;
  });
  const ways = disks.map((disk) => unmistakable(disk, disks));
  return new QmpBackupError('usage', `${option} ${name} fits ${disks.length} disks: ${fits.join(' and ')}`, {
    hint: `Name the one that is meant: ${ways.join(' or ')}`,
  });
}

function unmistakable(disk: Named, disks: readonly Named[]): string {
  const others = disks.filter((each) => each !== disk);
  const { file, qdev, address } = disk.source;
  const names = [disk.id, file, qdev, address].filter((name) => name !== undefined && name !== null);
  return names.find((name) => !others.some((other) => answersTo(other, name))) ?? file;
}

/** Drivers of a raw image: with `-blockdev` the file or device itself may be the top node. */
const RAW_DRIVERS = ['raw', 'file', 'host_device'];

const EXCLUDED = 'excluded by --exclude';

function whyLeftOut(request: DiskRequest, disk: KnownSource): string | undefined {
  if (request.exclude.some((name) => answersTo(disk, name))) return EXCLUDED;
  if (request.include.length > 0) {
    return request.include.some((name) => answersTo(disk, name)) ? undefined : 'not named by --include';
  }
  if (request.excludeRaw && RAW_DRIVERS.includes(disk.source.format)) return 'raw, excluded by --exclude-raw';
  return undefined;
}

/** What names a disk that is there, or one that a point has recorded. */
interface Nameable {
  readonly id?: string;
  readonly source: DiskNames;
}

/** Whether `name` means this disk: disk id, device name, node, guest device (path or id) or image file. */
export function answersTo({ id, source }: Nameable, name: string): boolean {
  const { device, qdev, address, file } = source;
  const names = [id, device, explicitNode(address), address, qdev, qdev?.split('/')[3], file, file.split('/').pop()];
  return names.includes(name);
}

/** Whether `--exclude` names this disk whatever its id is; what is not backed up need not be looked at. */
export function isSurelyExcluded(source: SourceDisk, { exclude }: Names): boolean {
  return exclude.some((name) => answersTo({ source }, name));
}

/**
 * The VM with the disks that a rule leaves out and `--include` names.
 *
 * @throws QmpBackupError `usage` for a name that fits two disks, or a disk that can only be taken alone
 */
export function withAskedFor(vm: VmState, { include }: Names): VmState {
  const offers = vm.leftOut.flatMap(({ offer }) => (offer ? [offer] : []));
  const asked = new Set<SourceDisk>();
  for (const name of include) {
    const fits = [...vm.disks.map((source) => ({ source })), ...offers].filter((each) => answersTo(each, name));
    if (fits.length > 1) throw ambiguous('--include', name, fits);
    const offer = offers.find(({ source }) => source === fits[0]?.source);
    if (!offer) continue;
    if (offer.alone && include.length > 1) {
      const hint = `Give it a run of its own: --include ${name}`;
      const why = 'taken together with others it can end libvirtd, where another VM has its image open';
      throw new QmpBackupError('usage', `--include ${name}: ${offer.source.cannotTrack ?? ''}; ${why}`, { hint });
    }
    asked.add(offer.source);
  }
  if (asked.size === 0) return vm;
  return {
    ...vm,
    disks: [...vm.disks, ...asked],
    leftOut: vm.leftOut.filter(({ offer }) => !offer || !asked.has(offer.source)),
  };
}

export function refuseDecryption(request: DiskRequest, chosen: readonly KnownSource[]): void {
  const encrypted = chosen.filter(({ source }) => source.encrypted);
  if (encrypted.length === 0 || request.allowPlaintext) return;
  throw new QmpBackupError(
    'unsafe',
    `${encrypted.map(({ id }) => id).join(', ')}: the image is encrypted, and QEMU would write its backup decrypted`,
    { hint: 'Allow that with --allow-plaintext, or leave the disk out with --exclude.' },
  );
}

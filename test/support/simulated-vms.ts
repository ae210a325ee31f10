import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { MiB } from './builders.js';
import { checkFs, fileChecksums } from './lab/compare.js';
import { createImage, makeExt4 } from './lab/disk-images.js';
import { type WritableVm, write } from './lab/guest-writes.js';
import type { Guest } from './lab/guest.js';
import type { LibvirtLab } from './lab/libvirt.js';
import { startQemu } from './lab/qemu.js';
import { afterTest } from './scenario.js';

/** A VM of one small disk that changes from run to run, and tells a restored point of one run from that of another. */
export interface SimulatedVm {
  readonly name: string;
  /** What `vms` of a configuration says of it. */
  readonly entry: string;
  /** Bytes that a run at most adds to its backup, and that a point at most takes. */
  readonly bytesPerRun: number;
  readonly bytesPerPoint: number;
  change(run: number): Promise<void>;
  /** Throws unless the folder holds the disk as it was at `run`. */
  expectRestored(output: string, run: number): Promise<void>;
}

type Disk = 'd1' | 'vda';

/** Places on a disk without a guest, a MiB from one to the next, and what is written to one of them at each run. */
const PLACES = 64;
const PIECE = MiB / 4;
const FULL = 255;
/** What an image takes beside its data, of which a run of 64 KiB clusters touches no more. */
const HEAD = MiB;

async function withoutGuest(name: string, entry: string, disk: Disk, vm: WritableVm): Promise<SimulatedVm> {
  const [places, states] = [Array.from({ length: PLACES }, () => FULL), new Map<number, readonly number[]>()];
  // A disk that fills up would look like a backup that grows.
  for (let at = 0; at < PLACES; at += 1) await write(vm, disk, { offset: at * MiB, length: PIECE, pattern: FULL });
  const salt = [...name].reduce((sum, letter) => sum + letter.charCodeAt(0), 0);
  return {
    ...{ name, entry, bytesPerRun: PIECE, bytesPerPoint: PLACES * PIECE + HEAD },
    change: async (run) => {
      const at = (run * 7 + salt) % PLACES;
      places[at] = 1 + (run % 250);
      await write(vm, disk, { offset: at * MiB, length: PIECE, pattern: places[at] });
      states.set(run, [...places]);
    },
    expectRestored: async (output, run) => {
      const image = await readFile(join(output, `${disk}.raw`));
      const wanted = Buffer.alloc(PLACES * MiB);
      for (const [at, byte] of (states.get(run) ?? []).entries()) wanted.fill(byte, at * MiB, at * MiB + PIECE);
      if (!image.equals(wanted)) throw new Error(`${name}: the point of run ${run} is not what the disk was`);
    },
  };
}

/** A guest's file system: something new, overwritten and deleted at each run, and trimmed once a week. */
const GUEST_DISK = 64 * MiB;
const FILES = 6;
/** Files, journal and tables. */
const GUEST_PER_RUN = 8 * MiB;

function withGuest(name: string, entry: string, disk: Disk, guest: Guest | GuestOfDomain): SimulatedVm {
  const states = new Map<number, ReadonlyMap<string, string>>();
  return {
    ...{ name, entry, bytesPerRun: GUEST_PER_RUN, bytesPerPoint: GUEST_DISK + HEAD },
    change: async (run) => {
      const steps = [
        'cd /mnt/d1',
        `dd if=/dev/urandom of=new-${run % FILES} bs=1k count=$((RANDOM % 400 + 1))`,
        'dd if=/dev/urandom of=same bs=16k seek=$((RANDOM % 20)) count=1 conv=notrunc',
        `rm -f new-${(run + 2) % FILES}`,
        'sync',
        ...(run % 14 === 13 ? ['fstrim /mnt/d1'] : []),
      ];
      await guest.run(`{ ${steps.join(' && ')}; } 2>/dev/null`);
      states.set(run, await guest.fileChecksums('/mnt/d1'));
    },
    expectRestored: async (output, run) => {
      const image = join(output, `${disk}.raw`);
      await checkFs(image);
      const [found, had] = [await fileChecksums(image), states.get(run)];
      if (JSON.stringify([...found]) !== JSON.stringify([...(had ?? [])]))
        throw new Error(`${name}: the files of run ${run} are not those that the guest had`);
    },
  };
}

type GuestOfDomain = Omit<Guest, 'agent' | 'agentExec' | 'ready'>;

/** Reached by its monitor, in a folder of its own below `dir`. */
export async function monitoredVm(dir: string, name: string, has: { readonly guest: boolean }): Promise<SimulatedVm> {
  const file = await diskOf(dir, name, has);
  const options = { dir: join(dir, name), name, disks: [{ id: 'd1', format: 'qcow2', file }] } as const;
  if (!has.guest) {
    const vm = await startQemu(options);
    afterTest(() => vm.kill());
    return withoutGuest(name, `{ socket: ${vm.socket} }`, 'd1', vm);
  }
  const vm = await startQemu({ ...options, guest: true });
  afterTest(() => vm.kill());
  const entry = `{ socket: ${vm.socket}, agent-socket: ${vm.agentSocket}, quiesce: require }`;
  return withGuest(name, entry, 'd1', vm.guest);
}

/** A domain of `lab`, which ends it. */
export async function simulatedDomain(
  lab: LibvirtLab,
  name: string,
  has: { readonly guest: boolean },
): Promise<SimulatedVm> {
  const file = await diskOf(join(lab.dir, 'images'), name, has);
  const domain = await lab.define({ name, disks: [{ target: 'vda', file }], ...(has.guest && { guest: true }) });
  await domain.start();
  const entry = `domain: ${name}, connect: "${lab.uri}"`;
  return has.guest
    ? withGuest(name, `{ ${entry}, quiesce: require }`, 'vda', domain.guest)
    : withoutGuest(name, `{ ${entry} }`, 'vda', domain);
}

async function diskOf(dir: string, name: string, { guest }: { readonly guest: boolean }): Promise<string> {
  const file = join(dir, `${name}.qcow2`);
  if (guest) await makeExt4({ file, label: 'DATA1', format: 'qcow2', size: GUEST_DISK });
  else await createImage({ file, format: 'qcow2', size: PLACES * MiB });
  return file;
}

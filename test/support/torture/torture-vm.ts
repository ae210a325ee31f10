import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { QmpCommandError } from '../../../src/qmp/errors.js';
import { createImage, type ImageFormat } from '../lab/disk-images.js';
import type { Disk } from '../lab/disks.js';
import { discard, type Range, readsAs, write, writeZeroes } from '../lab/guest-writes.js';
import { migrate, startDestination, takeDisks, untilArrived } from '../lab/migration.js';
import { type Exit, type QemuOptions, startQemu, type Vm } from '../lab/qemu.js';
import { patient } from '../patience.js';
import { CHUNK, type DiskBytes, grown, readDisk, written, zeroDisk } from './disk-bytes.js';
import { blockNodes } from './leftovers.js';
import type { DiskShape, VmShape, Write } from './steps.js';

/** A VM without a guest, and what each of its disks must hold. All writes come from here. */
export interface TortureDisk {
  readonly id: string;
  readonly shape: DiskShape;
  /** The image on top, and its format. */
  file: string;
  format: ImageFormat;
  bytes: DiskBytes;
  /** How many external snapshots were made of it. */
  snapshots: number;
  /** On the clock of the sequence: when its bitmaps were last lost. */
  lostAt: number;
}

export const FOREIGN_BITMAP = 'somebody-elses';

export class TortureVm {
  readonly dir: string;
  readonly disks: readonly TortureDisk[];
  readonly #shape: VmShape;
  #vm: Vm | undefined;
  /** QEMUs that it was migrated away from. */
  #left: Vm[] = [];
  #moves = 0;
  #hasMoved = false;
  #foreignJobs = 0;

  static async make(dir: string, shape: VmShape): Promise<TortureVm> {
    const made = new TortureVm(dir, shape);
    await Promise.all([
      ...made.disks.map(({ file, format, shape: { size } }) => createImage({ file, format, size })),
      writeFile(join(dir, 'firmware'), HALTING_FIRMWARE),
    ]);
    await made.start();
    if (shape.foreignBitmap && made.disks[0]!.format === 'qcow2') {
      const bitmap = { name: FOREIGN_BITMAP, persistent: true, granularity: 131072 };
      await made.vm.control.execute('block-dirty-bitmap-add', { node: await made.topNode(made.disks[0]!), ...bitmap });
    }
    return made;
  }

  private constructor(dir: string, shape: VmShape) {
    this.dir = dir;
    this.#shape = shape;
    this.disks = shape.disks.map((each, index): TortureDisk => {
      const id = `d${index}`;
      const format = each.kind === 'raw' ? 'raw' : 'qcow2';
      const file = join(dir, `${id}.${format}`);
      return { id, shape: each, file, format, bytes: zeroDisk(each.size), snapshots: 0, lostAt: 0 };
    });
  }

  get vm(): Vm {
    if (!this.#vm) throw new Error('the VM is not up');
    return this.#vm;
  }

  get isUp(): boolean {
    return this.#vm !== undefined;
  }

  /** As `query-status` must say it. */
  get expectedStatus(): string {
    return this.#shape.running ? 'running' : this.#hasMoved ? 'paused' : 'prelaunch';
  }

  get #isOld(): boolean {
    return this.vm.control.greeting.qemuVersion.major < 10;
  }

  /** What QEMU says before it aborts. */
  get lastWords(): string {
    const words = this.#vm?.stderr.toString().trim() ?? '';
    return words === '' ? '' : `\nQEMU said: ${words}`;
  }

  disk(number: number): TortureDisk {
    return this.disks[number % this.disks.length]!;
  }

  async start(): Promise<void> {
    this.#hasMoved = false;
    this.#vm = await startQemu(this.#options('vm'));
    if (!this.#shape.running) return;
    await this.#vm.control.execute('cont');
    if (this.#needsDriver) await untilServed(this.#vm, this.disks);
  }

  /** An iothread serves a disk only while a driver of the guest has it: that of QEMU's own firmware does. */
  get #needsDriver(): boolean {
    return this.#shape.running && this.#shape.iothreads !== undefined;
  }

  #options(folder: string): QemuOptions {
    return {
      dir: join(this.dir, folder),
      disks: this.disks.map((disk, index) => driveOf(disk, index, this.#shape)),
      args: this.#needsDriver ? [] : ['-bios', join(this.dir, 'firmware')],
      ...(this.#shape.named ? { name: 'tortured' } : {}),
    };
  }

  /**
   * The VM goes on in a second QEMU with the same images, and the bitmaps that are stored in them. False where that is refused,
   * as while a run is in it or has died in it. The QEMU that it leaves stays for whoever talks to it, until `endMoved`.
   */
  async migrate(now: number): Promise<boolean> {
    this.#moves += 1;
    const { vm, uri } = await startDestination({ options: this.#options('vm') }, join(this.dir, `vm${this.#moves}`));
    const end = await migrate(this.vm, uri).catch((error: unknown) => {
      if (error instanceof QmpCommandError) return 'refused';
      throw error;
    });
    if (end !== 'completed') {
      await vm.kill();
      return false;
    }
    await untilArrived(vm);
    if (this.#shape.running) await vm.control.execute('cont');
    else await takeDisks(vm);
    this.#left.push(this.vm);
    this.#vm = vm;
    this.#hasMoved = true;
    for (const disk of this.disks) if (disk.format === 'raw') disk.lostAt = now;
    return true;
  }

  async endMoved(): Promise<void> {
    await Promise.all(this.#left.map((vm) => vm.kill()));
    this.#left = [];
  }

  /** QEMU ends by `quit` and stores its bitmaps; a raw image cannot hold any. */
  async quit(now: number): Promise<Exit | undefined> {
    const exit = await this.#vm?.stop();
    this.#vm = undefined;
    for (const disk of this.disks) if (disk.format === 'raw') disk.lostAt = now;
    return exit;
  }

  /** SIGKILL. What QEMU had not yet written to an image is lost, as for a guest after a power cut. */
  async kill(now: number): Promise<void> {
    await this.#vm?.kill();
    this.#vm = undefined;
    for (const disk of this.disks) {
      disk.lostAt = now;
      disk.bytes = await readDisk(disk.file, disk.format, join(this.dir, `${disk.id}.scratch`));
    }
  }

  async write(writes: readonly Write[]): Promise<void> {
    for (const each of writes) {
      const disk = this.disk(each.disk);
      const unit = each.kind === 'discard' ? CHUNK : 512;
      const room = Math.floor(disk.bytes.size / unit) * unit;
      const length = Math.min(room, Math.ceil(each.length / unit) * unit);
      const offset = Math.floor(((room - length) * each.at) / 1000 / unit) * unit;
      const range = { offset, length };
      if (each.kind === 'write') await write(this.vm, disk.id, { ...range, pattern: each.pattern });
      else if (each.kind === 'zero') await this.#writeZeroes(disk, range);
      else if (!(await this.#discard(disk, range))) continue;
      disk.bytes = written(disk.bytes, offset, length, each.kind === 'write' ? each.pattern : 0);
    }
  }

  /** The monitor's own `write -z` to a disk that an iothread serves ends 7.2 (`in_aio_context_home_thread`), whatever else is there. */
  async #writeZeroes(disk: TortureDisk, range: Range): Promise<void> {
    const isFatal = this.#needsDriver && this.#isOld;
    if (isFatal) await write(this.vm, disk.id, { ...range, pattern: 0 });
    else await writeZeroes(this.vm, disk.id, range);
  }

  /** Whether anything came of it: below the filter of a running job a discard is ignored, as it may be. */
  async #discard(disk: TortureDisk, range: Range): Promise<boolean> {
    await discard(this.vm, disk.id, range);
    return readsAs(this.vm, disk.id, { ...range, pattern: 0 });
  }

  /**
   * QEMU refuses it while the disk has an inconsistent bitmap, or a job that a dead run left behind. Not done while a bitmap is
   * in use all the same, as where such a job is about to end: QEMU 10 aborts then (`bdrv_dirty_bitmap_truncate`).
   */
  async grow(disk: TortureDisk, bytes: number): Promise<void> {
    const nodes = await blockNodes(this.vm.control);
    if (nodes.some(({ 'dirty-bitmaps': bitmaps = [] }) => bitmaps.some(({ busy }) => busy))) return;
    const size = disk.bytes.size + bytes;
    // By way of its filter, which else goes on with the old size (QEMU 7.2).
    const node = this.#hasFilter(disk) ? `${disk.id}-throttle` : await this.topNode(disk);
    if (await this.#isDone('block_resize', { 'node-name': node, size })) disk.bytes = grown(disk.bytes, size);
  }

  #hasFilter({ shape: { kind } }: TortureDisk): boolean {
    return kind === 'throttled' || (kind === 'blockdev' && this.#shape.oneGroup === true);
  }

  /**
   * An overlay becomes the disk. It has no bitmap; the image below keeps its own. Refused while a job is there. Not done
   * above the filter of a dead run, which nothing could take out again; nor to a VM without a name, which is known by its
   * bitmaps and images alone.
   */
  async snapshot(disk: TortureDisk, now: number): Promise<void> {
    if (!this.#shape.named) return;
    const nodes = await blockNodes(this.vm.control);
    if (nodes.some(({ 'node-name': name }) => name.startsWith('qmpbackup'))) return;
    disk.snapshots += 1;
    const file = join(this.dir, `${disk.id}-over${disk.snapshots}.qcow2`);
    const isDone = await this.#isDone('blockdev-snapshot-sync', {
      ...(disk.shape.kind === 'drive' || disk.shape.kind === 'raw'
        ? { device: disk.id }
        : { 'node-name': await this.topNode(disk), 'snapshot-node-name': `${disk.id}-over${disk.snapshots}` }),
      ...{ 'snapshot-file': file, format: 'qcow2' },
    });
    if (!isDone) return;
    disk.file = file;
    disk.format = 'qcow2';
    disk.lostAt = now;
  }

  /** Somebody else's copy of a disk, which ends when it ends. */
  async startForeignJob(disk: TortureDisk): Promise<void> {
    this.#foreignJobs += 1;
    const name = `foreign-${this.#foreignJobs}`;
    await this.vm.control.execute('drive-backup', {
      ...{ 'job-id': name, device: await this.topNode(disk), sync: 'full', format: 'qcow2' },
      target: join(this.dir, `${name}.qcow2`),
    });
  }

  /** The disk that an entry of a catalog is about, by the guest device that it names. */
  diskOfDevice(qdev: string | null): TortureDisk {
    const disk = this.disks.find(({ id }) => qdev?.split('/').includes(deviceOf(id)));
    if (!disk) throw new Error(`no disk has the guest device ${qdev}`);
    return disk;
  }

  /** The format node that holds the disk now: the one whose file is the image on top. */
  async topNode(disk: TortureDisk): Promise<string> {
    const nodes = await blockNodes(this.vm.control);
    const node = nodes.find(({ drv, file }) => drv === disk.format && file === disk.file);
    if (!node) throw new Error(`no node has ${disk.file}`);
    return node['node-name'];
  }

  /** False where QEMU refuses. */
  async #isDone(command: string, args: Readonly<Record<string, unknown>>): Promise<boolean> {
    try {
      await this.vm.control.execute(command, args);
      return true;
    } catch (error) {
      if (error instanceof QmpCommandError) return false;
      throw error;
    }
  }

  async end(): Promise<void> {
    await this.endMoved();
    await this.#vm?.kill();
    this.#vm = undefined;
  }
}

/** Id of the guest device of a disk; a name for it that no snapshot changes. */
export function deviceOf(id: string): string {
  return `dev-${id}`;
}

/** What a started CPU runs: `cli; hlt` at the reset vector. A firmware would boot, and cost a second of CPU. */
const HALTING_FIRMWARE = Buffer.alloc(65536, 0xf4);
HALTING_FIRMWARE.set([0xfa, 0xf4, 0xeb, 0xfc], 0xfff0);

function driveOf({ id, shape, file, format }: TortureDisk, index: number, vm: VmShape): Disk {
  const limit = vm.oneGroup ? { throttle: { bytes: SHARED_LIMIT, group: 'limit' } } : {};
  const iothread = vm.iothreads === undefined ? {} : { iothread: vm.iothreads === 'one' ? 'io' : `io${index}` };
  const common = { ...{ id, file, format }, ...iothread };
  switch (shape.kind) {
    case 'drive':
    case 'raw':
      return { ...common, ...limit };
    case 'blockdev':
      return { ...common, ...limit, via: 'blockdev' };
    case 'throttled':
      return { ...common, throttle: { bytes: 1024 ** 4 }, ...limit, via: 'blockdev' };
  }
}

/** Bytes a second: what is written has to wait now and then. */
const SHARED_LIMIT = 16 * 1024 * 1024;

const SERVED_MS = patient(60_000);

/** Until the guest's driver has all disks. What it boots from then is none: it halts, and writes nothing. */
async function untilServed({ control }: Vm, disks: readonly TortureDisk[]): Promise<void> {
  for (const until = performance.now() + SERVED_MS; ; await sleep(50)) {
    const all = await Promise.all(
      disks.map(async ({ id }) => {
        const path = `/machine/peripheral/${deviceOf(id)}/virtio-backend`;
        return (await control.execute('x-query-virtio-status', { path })) as { readonly started: boolean };
      }),
    );
    if (all.every(({ started }) => started)) return;
    if (performance.now() > until) throw new Error('the firmware does not drive the disks');
  }
}

import type { JobState, SourceDisk, VmState } from '../../../src/core/disk.js';
import type { PlannedDisk } from '../../../src/core/plan.js';
import { bitmap, source, vmState } from '../builders.js';

/**
 * A pretend QEMU: disks of a few clusters whose content is a version number, and bitmaps and jobs that behave as QEMU's
 * were seen to (docs/qemu-notes.md).
 */
export const CLUSTERS = 6;

interface Bitmap {
  dirty: Set<number>;
  readonly persistent: boolean;
  inconsistent: boolean;
  /** It was in the image when QEMU opened it. */
  stored: boolean;
}

export interface Disk {
  readonly device: string;
  /** A raw image stores no bitmap. */
  readonly raw: boolean;
  content: readonly number[];
  readonly bitmaps: Map<string, Bitmap>;
}

export interface Job {
  state: 'running' | 'concluded';
  error: string | null;
  /** What it has to copy, by cluster: QEMU keeps the instant. */
  readonly copy: ReadonlyMap<number, number>;
  readonly to: PretendFile;
}

export interface PretendFile {
  name: string;
  /** By cluster; what is not here is the parent's. */
  data: ReadonlyMap<number, number>;
}

/** A disk of a plan, and the image that was made for it. */
export interface Staged {
  readonly planned: PlannedDisk;
  readonly file: PretendFile;
}

export class PretendQemu {
  readonly disks: readonly Disk[];
  readonly jobs = new Map<string, Job>();
  isUp = true;
  #version = 0;

  constructor(disks: readonly { readonly raw: boolean }[]) {
    this.disks = disks.map(({ raw }, index) => ({
      ...{ device: `d${index}`, raw, bitmaps: new Map() },
      content: Array.from({ length: CLUSTERS }, () => 0),
    }));
  }

  write(diskNumber: number, cluster: number): void {
    const disk = this.disks[diskNumber % this.disks.length]!;
    this.#version += 1;
    disk.content = disk.content.with(cluster, this.#version);
    for (const each of disk.bitmaps.values()) if (!each.inconsistent) each.dirty.add(cluster);
  }

  /** All bitmaps and all jobs at one instant. */
  transaction(staged: readonly Staged[], bugs: { readonly clearsTheParent?: boolean }): void {
    for (const { planned, file } of staged) {
      const disk = this.diskAt(planned.source.address);
      const parent = planned.copyBitmap === null ? undefined : disk.bitmaps.get(planned.copyBitmap);
      const clusters = planned.copyBitmap === null ? disk.content.keys() : parent!.dirty.values();
      const copy = new Map([...clusters].map((cluster) => [cluster, disk.content[cluster]!]));
      if (bugs.clearsTheParent && parent) parent.dirty = new Set();
      this.jobs.set(planned.job, { state: 'running', error: null, copy, to: file });
      if (!planned.newBitmap) continue;
      const { name, persistent } = planned.newBitmap;
      if (disk.bitmaps.has(name)) throw new Error(`Bitmap already exists: ${name}`);
      disk.bitmaps.set(name, { dirty: new Set(), persistent, inconsistent: false, stored: false });
    }
  }

  conclude(job: Job, error: string | null): void {
    job.state = 'concluded';
    job.error = error;
    if (error === null) job.to.data = job.copy;
  }

  vm(): VmState {
    const jobs = [...this.jobs].map(([id, { state, error }]): JobState => ({
      id,
      type: 'backup',
      status: state,
      current: 1,
      total: 1,
      error,
    }));
    const sources = this.disks.map(({ device, raw, bitmaps }): SourceDisk => {
      const carried = [...bitmaps].map(([name, { persistent, inconsistent }]) =>
        bitmap(name, { persistent, inconsistent, recording: !inconsistent }),
      );
      return source(device, { format: raw ? 'raw' : 'qcow2', compat: raw ? null : '1.1', bitmaps: carried });
    });
    return vmState(sources, { jobs });
  }

  quit(): void {
    this.isUp = false;
    this.jobs.clear();
    for (const { bitmaps } of this.disks) {
      for (const [name, each] of bitmaps) {
        if (each.persistent) each.stored = true;
        else bitmaps.delete(name);
      }
    }
  }

  kill(): void {
    this.isUp = false;
    this.jobs.clear();
    for (const { bitmaps } of this.disks) {
      for (const [name, each] of bitmaps) {
        if (each.stored) each.inconsistent = true;
        else bitmaps.delete(name);
      }
    }
  }

  diskAt(node: string): Disk {
    return this.disks.find(({ device }) => `#block-${device}` === node)!;
  }
}

import type { Catalog } from '../../../src/core/catalog.js';
import { backingChainOf } from '../../../src/core/chain.js';
import type { VmState } from '../../../src/core/disk.js';
import type { Journal } from '../../../src/core/journal.js';
import { matchDisks } from '../../../src/core/match-disks.js';
import { bitmapName } from '../../../src/core/names.js';
import { afterTransaction, type BackupPlan, planBackup, type RequestedLevel } from '../../../src/core/plan.js';
import type { PointDisk } from '../../../src/core/point.js';
import { reconcile, type RepairAction, retire } from '../../../src/core/reconcile.js';
import { QmpBackupError } from '../../../src/errors.js';
import { catalog as catalogOf, entry, journal as journalOf, point, request } from '../builders.js';
import { CLUSTERS, type PretendFile, PretendQemu, type Staged } from './qemu.js';

/**
 * A pretend target, and runs in steps that can end at any of them: what is pure of a backup, without what is not. What it
 * promises is checked as in life: the chain of every point is put together and compared.
 */
export interface Target {
  catalog: Catalog | undefined;
  journal: Journal | undefined;
  /** By disk. */
  readonly folders: Map<string, PretendFile[]>;
  /** By point: what the disks held at its instant. */
  readonly instants: Map<string, ReadonlyMap<string, readonly number[]>>;
}

/** How a run ends before its time: after so many steps, by whose end. */
export interface Death {
  readonly after: number;
  readonly of: 'tool' | 'qemu-quits' | 'qemu-killed' | 'job';
}

/** Bugs to put in, for the test of the test. */
export interface Bugs {
  readonly clearsTheParent?: boolean;
  readonly sealsEarly?: boolean;
  readonly reusesNames?: boolean;
}

class Dead extends Error {}

export class Pretend {
  readonly qemu: PretendQemu;
  readonly targets: readonly Target[];
  readonly #bugs: Bugs;
  #attempts = 0;
  #steps = 0;
  #death: Death | undefined;

  constructor(disks: readonly { readonly raw: boolean }[], targets: number, bugs: Bugs = {}) {
    this.qemu = new PretendQemu(disks);
    this.targets = Array.from({ length: targets }, () => ({
      ...{ catalog: undefined, journal: undefined, folders: new Map(), instants: new Map() },
    }));
    this.#bugs = bugs;
  }

  /** QEMU ends, stores what it can, and starts again. */
  restart(): void {
    this.qemu.quit();
    this.qemu.isUp = true;
  }

  powerCut(): void {
    this.qemu.kill();
    this.qemu.isUp = true;
  }

  /** Jobs that a dead run left behind go on to their ends. */
  letJobsEnd(): void {
    for (const job of this.qemu.jobs.values()) if (job.state === 'running') this.qemu.conclude(job, null);
  }

  /** `done`: the point is sealed and the program would end with 0. */
  run(targetNumber: number, level: RequestedLevel, death?: Death): 'done' | 'refused' | 'failed' | 'died' {
    const target = this.targets[targetNumber]!;
    this.qemu.isUp = true;
    this.#steps = 0;
    this.#death = death;
    try {
      return this.#perform(target, level);
    } catch (error) {
      if (!(error instanceof Dead)) throw error;
      return 'died';
    } finally {
      this.#death = undefined;
      this.qemu.isUp = true;
    }
  }

  #perform(target: Target, level: RequestedLevel): 'done' | 'refused' | 'failed' {
    this.#repair(target);
    if (!this.qemu.isUp) return 'failed';
    this.#attempts += 1;
    const attempt = this.#attempts.toString(16).padStart(12, '0');
    let plan: BackupPlan;
    try {
      plan = this.#plan(target, level, attempt);
    } catch (error) {
      if (error instanceof QmpBackupError && error.code === 'unsafe') return 'refused';
      throw error;
    }
    const vm = this.qemu.vm();
    target.journal = journalOf(
      attempt,
      plan.disks.map(({ disk, newBitmap, job, file }) => ({ disk, bitmap: newBitmap?.name ?? null, job, file })),
    );
    this.#step();
    const staged = plan.disks.map((planned): Staged => {
      const file: PretendFile = { name: `${planned.file}.partial`, data: new Map() };
      this.#folder(target, planned.disk).push(file);
      this.#step();
      return { planned, file };
    });
    if (!this.qemu.isUp) return 'failed';
    target.instants.set(attempt, new Map(this.qemu.disks.map(({ device, content }) => [device, content])));
    this.qemu.transaction(staged, this.#bugs);
    this.#step();
    if (!this.#bugs.sealsEarly && !this.#jobsEndWell(plan)) {
      if (this.qemu.isUp) this.#repair(target);
      return 'failed';
    }
    for (const { planned, file } of staged) {
      file.name = planned.file;
      this.#step();
    }
    this.#seal(target, plan, attempt);
    this.#step();
    if (!this.qemu.isUp) return 'done';
    this.#tidyUp(target, plan, vm);
    return 'done';
  }

  #jobsEndWell(plan: BackupPlan): boolean {
    for (const { job } of plan.disks) {
      const found = this.qemu.jobs.get(job);
      if (!found) return false;
      const fails = this.#death?.of === 'job' && this.#steps >= this.#death.after;
      this.qemu.conclude(found, fails ? 'No space left on device' : null);
      this.#step();
    }
    return plan.disks.every(({ job }) => this.qemu.jobs.get(job)?.error === null);
  }

  #seal(target: Target, plan: BackupPlan, attempt: string): void {
    const disks = plan.disks.map(({ disk, level, file, parent, compares, newBitmap, source: from }): PointDisk =>
      entry(disk, file, {
        ...{ level, parent: parent?.file ?? null, bitmap: newBitmap, ...(compares && { compared: true }) },
        ...{ sha256: null, pieces: { bytes: 4 * 1024 * 1024, sha256: 'c'.repeat(64) } },
        source: {
          device: from.device,
          qdev: from.qdev,
          node: from.address,
          file: from.file,
          format: from.format,
          image: {},
        },
      }),
    );
    const more = { id: attempt, chain: plan.chain, level: plan.level };
    const before = target.catalog ?? catalogOf([], { targetId: this.#targetId(target) });
    target.catalog = { ...before, points: [...before.points, point(plan.number, disks, more)] };
  }

  #tidyUp(target: Target, plan: BackupPlan, vm: VmState): void {
    for (const { job } of plan.disks) {
      this.qemu.jobs.delete(job);
      this.#step();
    }
    const sources = afterTransaction(vm.disks, plan);
    for (const action of retire({ catalog: target.catalog, olderMonths: [], sources })) this.#carryOut(target, action);
    if (!this.qemu.isUp) return;
    target.journal = undefined;
    this.#step();
  }

  #repair(target: Target): void {
    const { disks, jobs, status, ownNodes, ownExports } = this.qemu.vm();
    const files = new Map([...target.folders].map(([disk, folder]) => [disk, folder.map(({ name }) => name)]));
    const { catalog, journal } = target;
    const seen = { catalog, journal, olderMonths: [], sources: disks, jobs, status, ownNodes, ownExports, files };
    for (const action of reconcile(seen)) this.#carryOut(target, action);
  }

  #carryOut(target: Target, action: RepairAction): void {
    if (!this.qemu.isUp) return;
    switch (action.kind) {
      case 'end-job':
        this.qemu.jobs.delete(action.job);
        break;
      case 'remove-bitmap':
        this.qemu.diskAt(action.node).bitmaps.delete(action.bitmap);
        break;
      case 'delete-file': {
        const folder = this.#folder(target, action.disk);
        folder.splice(0, folder.length, ...folder.filter(({ name }) => name !== action.file));
        break;
      }
      case 'delete-folder':
        if (this.#folder(target, action.disk).length === 0) target.folders.delete(action.disk);
        break;
      case 'remove-journal':
        target.journal = undefined;
        break;
      default:
        throw new Error(`nothing here calls for ${action.kind}`);
    }
    this.#step();
  }

  #plan(target: Target, level: RequestedLevel, attempt: string): BackupPlan {
    const vm = this.qemu.vm();
    const drawn = this.#bugs.reusesNames ? '0'.repeat(12) : attempt;
    return planBackup({
      ...{ request: request(level), vm, known: matchDisks(target.catalog, vm.disks), catalog: target.catalog },
      ...{ bitmapName: (disk: string) => bitmapName(this.#targetId(target), disk, drawn), attempt: drawn },
      ...{ nowSeconds: 1000, brokenChains: new Map() },
      files: new Map([...target.folders].map(([disk, folder]) => [disk, folder.map(({ name }) => name)])),
    });
  }

  /** The run may end here. */
  #step(): void {
    this.#steps += 1;
    if (this.#death?.after !== this.#steps) return;
    switch (this.#death.of) {
      case 'tool':
        throw new Dead();
      case 'qemu-quits':
        return this.qemu.quit();
      case 'qemu-killed':
        return this.qemu.kill();
      case 'job':
        return;
    }
  }

  #folder(target: Target, disk: string): PretendFile[] {
    const folder = target.folders.get(disk) ?? [];
    target.folders.set(disk, folder);
    return folder;
  }

  #targetId(target: Target): string {
    return `${this.targets.indexOf(target)}`.padStart(16, '0');
  }

  /** Throws unless every point of every catalog is what the disks held at its instant. */
  expectPoints(): void {
    for (const target of this.targets) {
      for (const { id, disks } of target.catalog?.points ?? []) {
        for (const each of disks) {
          const found = restored(target, each).join();
          const expected = target.instants.get(id)!.get(each.disk)!.join();
          if (found !== expected) throw new Error(`${each.disk}/${each.file} of ${id} is ${found}, not ${expected}`);
        }
      }
    }
  }

  /** After a run that ended well: nothing of it is left but two bitmaps for each disk and target at most. */
  expectTidy(target: Target): void {
    if (target.journal) throw new Error('the journal is left');
    if (this.qemu.jobs.size > 0) throw new Error(`jobs are left: ${[...this.qemu.jobs.keys()].join()}`);
    const id = this.#targetId(target);
    for (const { device, bitmaps } of this.qemu.disks) {
      const names = [...bitmaps.keys()].filter((name) => name.includes(id));
      if (names.length > 2) throw new Error(`${device} carries ${names.join()}`);
    }
    const stray = [...target.folders.values()].flat().filter(({ name }) => name.endsWith('.partial'));
    if (stray.length > 0) throw new Error(`files are left: ${stray.map(({ name }) => name).join()}`);
  }
}

function restored({ catalog, folders }: Target, wanted: PointDisk): readonly number[] {
  const line = backingChainOf(catalog!, wanted);
  if ('missing' in line) throw new Error(`${wanted.file} needs ${line.missing}, which is not there`);
  let content: readonly number[] = Array.from({ length: CLUSTERS }, () => -1);
  for (const { file } of line.files) {
    const found = folders.get(wanted.disk)?.find(({ name }) => name === file);
    if (!found) throw new Error(`${wanted.disk}/${file} is gone`);
    for (const [cluster, version] of found.data) content = content.with(cluster, version);
  }
  return content;
}

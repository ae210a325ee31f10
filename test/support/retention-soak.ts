/**
 * Hour after hour a backup, and then a prune that merges points away, as cron does it for weeks. The hours are told to the
 * program, and all of it runs in this process: what it leaves open is seen here.
 */
import { mkdir, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { backup, prune, PruneRequest, restore, verify } from '../../src/index.js';
import { MiB } from './builders.js';
import { compareImages } from './lab/compare.js';
import { createImage } from './lab/disk-images.js';
import { flush, write } from './lab/guest-writes.js';
import { startQemu, type Vm } from './lab/qemu.js';
import { median } from './soak.js';

export interface RetentionSoakOptions {
  /** As it is built, or as it is written. */
  readonly library: Library;
  /** For images, sockets and the target; see makeLabDir. */
  readonly dir: string;
  readonly runs: number;
  /** How many more runs are timed, each beside one of another VM whose target is young. */
  readonly pairs?: {
    readonly count: number;
    /** Runs of the young one before the first pair. */ readonly from: number;
  };
  /** Between two runs. */
  readonly hours: number;
  readonly rules: Pick<PruneRequest, 'keepHourly' | 'keepDaily'>;
  readonly onRun?: (sample: RetentionSample) => void;
}

export interface Library {
  readonly backup: typeof backup;
  readonly prune: typeof prune;
  readonly restore: typeof restore;
  readonly verify: typeof verify;
}

export interface RetentionSoak {
  readonly samples: readonly RetentionSample[];
  /** Run after run in turn: what else the machine does meanwhile is the same for both. */
  readonly pairs: readonly RetentionPair[];
}

export interface RetentionPair {
  readonly old: RetentionSample;
  readonly young: RetentionSample;
}

/** What was seen after one run. */
export interface RetentionSample {
  /** From 1. */
  readonly run: number;
  /** Of backup and prune together, in ms. */
  readonly runMs: number;
  /** In the target. */
  readonly files: number;
  readonly points: number;
  /** Bytes. */
  readonly catalog: number;
  /** Of this process. */
  readonly openFiles: number;
}

const DISKS = ['d1', 'd2'] as const;
const SIZE = 64 * MiB;
const CLUSTER = 65_536;
const HOUR_MS = 3_600_000;

/**
 * Throws when a run fails or is no increment, and when in the end something is wrong with a file, the newest point is not
 * the disks, or the VM has more than two bitmaps of ours for each of them.
 */
export async function soakRetention(options: RetentionSoakOptions): Promise<RetentionSoak> {
  const { dir, runs, pairs, onRun } = options;
  const course = await Course.begin(options, join(dir, 'old'));
  try {
    const samples: RetentionSample[] = [];
    while (samples.length < runs) {
      const sample = await course.run();
      samples.push(sample);
      onRun?.(sample);
    }
    const timed = pairs === undefined ? [] : await timeBesideYoung(course, pairs, options);
    await course.expectWhole();
    return { samples, pairs: timed };
  } finally {
    await course.end();
  }
}

async function timeBesideYoung(
  old: Course,
  { count, from }: NonNullable<RetentionSoakOptions['pairs']>,
  options: RetentionSoakOptions,
): Promise<readonly RetentionPair[]> {
  const young = await Course.begin(options, join(options.dir, 'young'));
  try {
    for (let run = 0; run < from; run += 1) await young.run();
    const timed: RetentionPair[] = [];
    while (timed.length < count) timed.push({ old: await old.run(), young: await young.run() });
    return timed;
  } finally {
    await young.end();
  }
}

/** One VM, and its target. */
class Course {
  readonly #options: RetentionSoakOptions;
  readonly #dir: string;
  readonly #vm: Vm;
  #run = 0;

  static async begin(options: RetentionSoakOptions, dir: string): Promise<Course> {
    await mkdir(dir);
    return new Course(options, dir, await startVm(dir));
  }

  private constructor(options: RetentionSoakOptions, dir: string, vm: Vm) {
    this.#options = options;
    this.#dir = dir;
    this.#vm = vm;
  }

  async run(): Promise<RetentionSample> {
    const { library, hours, rules } = this.#options;
    const [vm, target] = [this.#vm, join(this.#dir, 'target')];
    const run = (this.#run += 1);
    for (const disk of DISKS) await change(vm, disk, run);
    const at = new Date(Date.UTC(2026, 0, 1) + run * hours * HOUR_MS);
    const given = { now: () => at };
    const begun = performance.now();
    const { point } = await library.backup({ socket: vm.socket, target }, given);
    const pruned = await library.prune({ target, ...rules, consolidate: true }, given);
    const runMs = performance.now() - begun;
    if (point?.level !== (run === 1 ? 'full' : 'inc')) throw new Error(`run ${run} took a ${point?.level}`);
    const kept = pruned.histories.flatMap(({ points }) => points.filter(({ reasons }) => reasons.length > 0));
    return { run, runMs, points: kept.length, ...(await usageOf(target)) };
  }

  async expectWhole(): Promise<void> {
    await expectWhole(this.#options.library, this.#vm, this.#dir);
  }

  async end(): Promise<void> {
    await this.#vm.kill();
  }
}

async function startVm(dir: string): Promise<Vm> {
  const disks = DISKS.map((id) => ({ id, file: join(dir, `${id}.qcow2`) }));
  for (const { file } of disks) await createImage({ file, format: 'qcow2', size: SIZE });
  return startQemu({ dir: join(dir, 'vm'), disks, name: 'soak' });
}

/** Some clusters, of which the next runs write over a part. */
async function change(vm: Vm, disk: string, run: number): Promise<void> {
  const offset = ((run * 5) % 1000) * CLUSTER;
  await write(vm, disk, { offset, length: 12 * CLUSTER, pattern: (run % 255) + 1 });
}

async function usageOf(target: string): Promise<Pick<RetentionSample, 'files' | 'catalog' | 'openFiles'>> {
  const files = (await readdir(target, { recursive: true })).length;
  const { size } = await stat(join(target, 'catalog.json'));
  return { files, catalog: size, openFiles: (await readdir('/proc/self/fd')).length };
}

interface Node {
  readonly file: string;
  readonly 'dirty-bitmaps'?: readonly { readonly name?: string }[];
}

async function expectWhole({ restore, verify }: Library, vm: Vm, dir: string): Promise<void> {
  const target = join(dir, 'target');
  const [found] = (await verify({ target, readData: true })).targets;
  if (found?.findings.length !== 0) throw new Error(`found by verify: ${JSON.stringify(found?.findings)}`);
  const output = join(dir, 'restored');
  await restore({ target, output });
  for (const { id, file } of vm.options.disks) {
    await flush(vm, id);
    await compareImages(join(output, `${id}.qcow2`), file ?? '');
  }
  const nodes = (await vm.control.execute('query-named-block-nodes', { flat: true })) as Node[];
  for (const { file, 'dirty-bitmaps': bitmaps = [] } of nodes) {
    const ours = bitmaps.filter(({ name = '' }) => name.startsWith('qmpbackup-'));
    if (ours.length > 2) throw new Error(`${file} has ${ours.length} bitmaps`);
  }
}

/** How much more there may be in the end. */
export const RETENTION_GROWTH = 1.2;

export interface Grown {
  readonly what: string;
  readonly before: number;
  readonly after: number;
  /** Whether more than `RETENTION_GROWTH` would be wrong: files and catalog grow until each rule has all its points. */
  readonly isBound: boolean;
}

const MEASURES: readonly (Pick<Grown, 'what' | 'isBound'> & { readonly of: (sample: RetentionSample) => number })[] = [
  { what: 'open files', isBound: true, of: ({ openFiles }) => openFiles },
  { what: 'points', isBound: false, of: ({ points }) => points },
  { what: 'files', isBound: false, of: ({ files }) => files },
  { what: 'files for a point', isBound: true, of: ({ files, points }) => files / points },
  { what: 'bytes of the catalog', isBound: false, of: ({ catalog }) => catalog },
  { what: 'bytes of the catalog for a point', isBound: true, of: ({ catalog, points }) => catalog / points },
];

/**
 * At run `early` and in the end: medians of as many runs up to there as make a day, for some runs of a day have more to merge. Times
 * where they were taken in pairs, since on a machine that has other work to do those of one hour say nothing about the next.
 */
export function retentionGrowth(
  { samples, pairs }: RetentionSoak,
  { early, day }: { readonly early: number; readonly day: number },
): readonly Grown[] {
  const seen = MEASURES.map(({ what, isBound, of }) => {
    const at = (until: number): number => median(samples.slice(Math.max(0, until - day), until).map(of));
    return { what, isBound, before: at(early), after: at(samples.length) };
  });
  if (pairs.length === 0) return seen;
  const before = median(pairs.map(({ young }) => young.runMs));
  const after = median(pairs.map(({ old }) => old.runMs));
  return [{ what: 'ms of a run, in turn', isBound: true, before, after }, ...seen];
}

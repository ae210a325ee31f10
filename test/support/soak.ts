/**
 * Many runs of `backup --level auto` in a row on one VM: what one run leaves behind, however little, adds up here. Looks
 * after each run at QEMU (open files, memory, bitmaps, jobs, nodes), at the names that were given and at the times.
 */
import { mkdir, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expectCli } from './cli.js';
import { compareImages } from './lab/compare.js';
import { createImage } from './lab/disk-images.js';
import { flush, write } from './lab/guest-writes.js';
import { startQemu, type Vm } from './lab/qemu.js';
import { patient } from './patience.js';

export interface SoakOptions {
  /** For images, sockets and the target; see makeLabDir. */
  readonly dir: string;
  readonly runs: number;
  /** How many more runs are timed, each beside a run on a VM with a short chain. */
  readonly pairs?: number;
  /** Called with the version of QEMU before the first run. */
  readonly onStart?: (version: string) => void;
  /** Called after each run, those of `pairs` not. */
  readonly onRun?: (sample: SoakSample) => void;
}

export interface Soak {
  readonly samples: readonly SoakSample[];
  /** Run after run in turn: what else the machine does meanwhile is the same for both. */
  readonly pairs: readonly Pair[];
}

export interface Pair {
  readonly long: SoakSample;
  /** A run with a number from 5 on, on a VM and a target of its own. */
  readonly short: SoakSample;
}

/** What was seen after one run. */
export interface SoakSample {
  /** From 1. */
  readonly run: number;
  /** Open files of QEMU. */
  readonly openFiles: number;
  /** Resident memory of QEMU in KiB. */
  readonly rssKiB: number;
  /** Round trip of the transaction, in ms. */
  readonly transactionMs: number;
  /** From the start of the program to its end, in ms. */
  readonly runMs: number;
  /** Files in the target. */
  readonly files: number;
}

interface Answer {
  readonly transactionMs: number;
  readonly point: {
    readonly id: string;
    readonly number: number;
    readonly disks: readonly {
      readonly disk: string;
      readonly level: string;
      readonly file: string;
      readonly bitmap: { readonly name: string } | null;
    }[];
  };
}

const KiB = 1024;
const DISK_BYTES = 64 * KiB * KiB;
const CLUSTER = 64 * KiB;
const DISKS = ['d1', 'd2'] as const;

/**
 * Throws when a run fails, is no INC of its predecessor, gives a name that was given before, or leaves anything in QEMU
 * but two bitmaps per disk; and when the chain does not equal the disks in the end.
 */
export async function soak({ dir, runs, pairs = 0, onStart, onRun }: SoakOptions): Promise<Soak> {
  const long = await Course.begin(join(dir, 'long'));
  try {
    onStart?.(long.qemuVersion);
    const samples: SoakSample[] = [];
    for (let run = 1; run <= runs; run += 1) {
      const sample = await long.run();
      samples.push(sample);
      onRun?.(sample);
    }
    const timed = pairs === 0 ? [] : await timeBesideShort(long, join(dir, 'short'), pairs);
    await long.expectChainEqualsDisks();
    return { samples, pairs: timed };
  } finally {
    await long.end();
  }
}

async function timeBesideShort(long: Course, dir: string, pairs: number): Promise<readonly Pair[]> {
  const short = await Course.begin(dir);
  try {
    for (let run = 1; run < FIRST; run += 1) await short.run();
    const timed: Pair[] = [];
    while (timed.length < pairs) timed.push({ long: await long.run(), short: await short.run() });
    return timed;
  } finally {
    await short.end();
  }
}

/** One VM with two disks, and its target. */
class Course {
  readonly #dir: string;
  readonly #vm: Vm;
  readonly #names = new Names();
  #run = 0;

  static async begin(dir: string): Promise<Course> {
    await mkdir(dir);
    const disks = DISKS.map((id, index) => ({
      id,
      file: join(dir, `${id}.qcow2`),
      ...(index === 1 && { via: 'blockdev' as const }),
    }));
    for (const { file } of disks) await createImage({ file, format: 'qcow2', size: DISK_BYTES });
    return new Course(dir, await startQemu({ dir: join(dir, 'vm'), disks, name: 'soak' }));
  }

  private constructor(dir: string, vm: Vm) {
    this.#dir = dir;
    this.#vm = vm;
  }

  get qemuVersion(): string {
    const { major, minor, micro } = this.#vm.control.greeting.qemuVersion;
    return `${major}.${minor}.${micro}`;
  }

  get #target(): string {
    return join(this.#dir, 'target');
  }

  async run(): Promise<SoakSample> {
    const vm = this.#vm;
    const run = (this.#run += 1);
    await changeDisks(vm, run);
    const begun = performance.now();
    const { stdout } = await expectCli(0, [
      ...['--json', '--quiet', '--socket', vm.socket],
      ...['backup', '--level', 'auto', '--target', this.#target],
    ]);
    const runMs = performance.now() - begun;
    const answer = JSON.parse(stdout) as Answer;
    this.#names.take(answer, run);
    await expectOnlyBitmaps(vm, this.#names);
    const { openFiles, rssKiB } = await usageOf(vm.pid);
    const files = (await readdir(this.#target, { recursive: true })).length;
    return { run, openFiles, rssKiB, transactionMs: answer.transactionMs, runMs, files };
  }

  async expectChainEqualsDisks(): Promise<void> {
    const output = join(this.#dir, 'restored');
    await expectCli(0, ['restore', '--target', this.#target, '--output', output], { timeout: patient(600_000) });
    for (const { id, file } of this.#vm.options.disks) {
      await flush(this.#vm, id);
      await compareImages(join(output, `${id}.qcow2`), file ?? '');
    }
  }

  async end(): Promise<void> {
    await this.#vm.kill();
  }
}

/** How much a value of the last window may be above that of the first. */
const GROWTH = 1.2;
const WINDOW = 20;
/** The first runs warm QEMU's caches up. */
const FIRST = 5;

/**
 * What grew, in words; nothing when nothing did. Open files and memory from runs 5 to 24 to the last 20; times where
 * they were taken in pairs, since on a machine that has other work to do those of one hour say nothing about the next.
 */
export function growth({ samples, pairs }: Soak): readonly string[] {
  const first = samples.slice(FIRST - 1, FIRST - 1 + WINDOW);
  const last = samples.slice(-WINDOW);
  if (samples.length < FIRST - 1 + 2 * WINDOW) throw new Error(`${samples.length} runs are too few to see growth`);
  const grown = (what: string, [before, after]: readonly [number, number], factor: number): string[] =>
    after <= before * factor ? [] : [`${what}: ${before.toFixed(1)} at first, ${after.toFixed(1)} in the end`];
  return [
    ...grown('open files of QEMU', [medianOf(first, 'openFiles'), medianOf(last, 'openFiles')], 1),
    ...grown('memory of QEMU in KiB', [medianOf(first, 'rssKiB'), medianOf(last, 'rssKiB')], GROWTH),
    ...(pairs.length === 0 ? [] : grown('the transaction in ms', inPairs(pairs, 'transactionMs'), GROWTH)),
    ...(pairs.length === 0 ? [] : grown('a run in ms', inPairs(pairs, 'runMs'), GROWTH)),
  ];
}

/** Medians with the short and the long chain. */
export function inPairs(pairs: readonly Pair[], key: keyof SoakSample): readonly [number, number] {
  return [
    medianOf(
      pairs.map(({ short }) => short),
      key,
    ),
    medianOf(
      pairs.map(({ long }) => long),
      key,
    ),
  ];
}

function medianOf(samples: readonly SoakSample[], key: keyof SoakSample): number {
  return median(samples.map((sample) => sample[key]));
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}

/** Every name that was given, and the bitmaps that have to be there now. */
class Names {
  readonly #given = new Set<string>();
  readonly #kept = new Map<string, { full: string; latest: string }>();

  take({ point }: Answer, run: number): void {
    if (point.number !== run - 1) throw new Error(`run ${run} made point ${point.number}`);
    this.#give(`attempt ${point.id}`);
    if (point.disks.length !== DISKS.length) throw new Error(`run ${run} backed up ${point.disks.length} disks`);
    for (const { disk, level, file, bitmap } of point.disks) {
      if (level !== (run === 1 ? 'full' : 'inc')) throw new Error(`run ${run} took a ${level} of ${disk}`);
      if (!bitmap) throw new Error(`run ${run} gave ${disk} no bitmap`);
      this.#give(`file ${disk}/${file}`);
      this.#give(`bitmap ${bitmap.name}`);
      this.#kept.set(disk, { full: this.#kept.get(disk)?.full ?? bitmap.name, latest: bitmap.name });
    }
  }

  get bitmaps(): readonly string[] {
    return [...new Set([...this.#kept.values()].flatMap(({ full, latest }) => [full, latest]))].sort();
  }

  #give(name: string): void {
    if (this.#given.has(name)) throw new Error(`given twice: ${name}`);
    this.#given.add(name);
  }
}

interface Node {
  readonly 'node-name'?: string;
  readonly 'dirty-bitmaps'?: readonly { readonly name?: string }[];
}

async function expectOnlyBitmaps(vm: Vm, names: Names): Promise<void> {
  const nodes = (await vm.control.execute('query-named-block-nodes', { flat: true })) as Node[];
  const bitmaps = nodes.flatMap((node) => (node['dirty-bitmaps'] ?? []).map(({ name }) => name ?? 'unnamed')).sort();
  if (bitmaps.join() !== names.bitmaps.join()) {
    throw new Error(`the bitmaps are ${bitmaps.join(', ')}; they should be ${names.bitmaps.join(', ')}`);
  }
  const ours = nodes.map((node) => node['node-name'] ?? '').filter((name) => name.startsWith('qmpbackup'));
  if (ours.length > 0) throw new Error(`nodes are left: ${ours.join(', ')}`);
  const jobs = (await vm.control.execute('query-jobs')) as unknown[];
  if (jobs.length > 0) throw new Error(`jobs are left: ${JSON.stringify(jobs)}`);
}

/** A cluster or two on the first disk, on the second at every third run: some increments are empty. */
async function changeDisks(vm: Vm, run: number): Promise<void> {
  const pattern = (run % 255) + 1;
  await write(vm, 'd1', { offset: ((run * 7) % 1000) * CLUSTER, length: CLUSTER, pattern });
  if (run % 3 === 0) await write(vm, 'd2', { offset: ((run * 11) % 1000) * CLUSTER + 512, length: CLUSTER, pattern });
}

async function usageOf(pid: number): Promise<{ readonly openFiles: number; readonly rssKiB: number }> {
  const [files, status] = await Promise.all([readdir(`/proc/${pid}/fd`), readFile(`/proc/${pid}/status`, 'utf8')]);
  const rss = /^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1];
  if (rss === undefined) throw new Error(`/proc/${pid}/status has no VmRSS`);
  return { openFiles: files.length, rssKiB: Number(rss) };
}

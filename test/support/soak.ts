/**
 * Many runs of `backup --level auto` in a row on one VM: what one run leaves behind, however little, adds up here. Looks
 * after each run at QEMU (open files, memory, bitmaps, jobs, nodes), at the names that were given and at the times.
 */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expectCli } from './cli.js';
import { compareImages } from './lab/compare.js';
import { createImage } from './lab/disk-images.js';
import { flush, write } from './lab/guest-writes.js';
import { startQemu, type Vm } from './lab/qemu.js';

export interface SoakOptions {
  /** For images, sockets and the target; see makeLabDir. */
  readonly dir: string;
  readonly runs: number;
  /** Called with the version of QEMU before the first run. */
  readonly onStart?: (version: string) => void;
  /** Called after each run. */
  readonly onRun?: (sample: SoakSample) => void;
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
export async function soak({ dir, runs, onStart, onRun }: SoakOptions): Promise<readonly SoakSample[]> {
  const target = join(dir, 'target');
  const disks = DISKS.map((id, index) => ({
    id,
    file: join(dir, `${id}.qcow2`),
    ...(index === 1 && { via: 'blockdev' as const }),
  }));
  for (const { file } of disks) await createImage({ file, format: 'qcow2', size: DISK_BYTES });
  const vm = await startQemu({ dir: join(dir, 'vm'), disks, name: 'soak' });
  try {
    const { major, minor, micro } = vm.control.greeting.qemuVersion;
    onStart?.(`${major}.${minor}.${micro}`);
    const samples: SoakSample[] = [];
    const names = new Names();
    for (let run = 1; run <= runs; run += 1) {
      await changeDisks(vm, run);
      const begun = performance.now();
      const { stdout } = await expectCli(0, [
        ...['--json', '--quiet', '--socket', vm.socket],
        ...['backup', '--level', 'auto', '--target', target],
      ]);
      const runMs = performance.now() - begun;
      const answer = JSON.parse(stdout) as Answer;
      names.take(answer, run);
      await expectOnlyBitmaps(vm, names);
      const { openFiles, rssKiB } = await usageOf(vm.pid);
      const files = (await readdir(target, { recursive: true })).length;
      const sample = { run, openFiles, rssKiB, transactionMs: answer.transactionMs, runMs, files };
      samples.push(sample);
      onRun?.(sample);
    }
    await expectChainEqualsDisks(vm, target, join(dir, 'restored'));
    return samples;
  } finally {
    await vm.kill();
  }
}

/** How much a value of the last window may be above that of the first. */
const GROWTH = 1.2;
const WINDOW = 20;
/** The first runs warm QEMU's caches up. */
const FIRST = 5;

/**
 * What grew from runs 5 to 24 to the last 20, in words; nothing when nothing did. Times only when they are `timed`: on a
 * machine that has other work to do they say nothing.
 */
export function growth(samples: readonly SoakSample[], { timed }: { readonly timed: boolean }): readonly string[] {
  const first = samples.slice(FIRST - 1, FIRST - 1 + WINDOW);
  const last = samples.slice(-WINDOW);
  if (samples.length < FIRST - 1 + 2 * WINDOW) throw new Error(`${samples.length} runs are too few to see growth`);
  const grown = (what: string, of: (sample: SoakSample) => number, factor: number): string[] => {
    const [before, after] = [median(first.map(of)), median(last.map(of))];
    return after <= before * factor ? [] : [`${what}: ${before.toFixed(1)} at first, ${after.toFixed(1)} in the end`];
  };
  return [
    ...grown('open files of QEMU', ({ openFiles }) => openFiles, 1),
    ...grown('memory of QEMU in KiB', ({ rssKiB }) => rssKiB, GROWTH),
    ...(timed ? grown('the transaction in ms', ({ transactionMs }) => transactionMs, GROWTH) : []),
    ...(timed ? grown('a run in ms', ({ runMs }) => runMs, GROWTH) : []),
  ];
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

async function expectChainEqualsDisks(vm: Vm, target: string, output: string): Promise<void> {
  await expectCli(0, ['restore', '--target', target, '--output', output], { timeout: 600_000 });
  for (const { id, file } of vm.options.disks) {
    await flush(vm, id);
    await compareImages(join(output, `${id}.qcow2`), file ?? '');
  }
}

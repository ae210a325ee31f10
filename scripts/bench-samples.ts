/** What the parts of the bench have in common: runs of the tool, medians, and how they are printed. */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { projectRoot } from '../test/support/lab/programs.js';

export const MiB = 1024 * 1024;
const PROGRAM = join(projectRoot(), 'bin', 'qmpbackup.js');

export interface Ran {
  readonly ms: number;
  /** The most that the tool itself had. */
  readonly peakBytes: number;
  readonly stdout: string;
}

export async function runTool(args: readonly string[]): Promise<Ran> {
  const begun = performance.now();
  const child = execa(process.execPath, [PROGRAM, ...args]);
  let peakBytes = 0;
  const poll = setInterval(() => {
    readFile(`/proc/${child.pid}/status`, 'utf8').then(
      (text) => (peakBytes = Math.max(peakBytes, Number(/VmHWM:\s+(\d+)/.exec(text)?.[1] ?? 0) * 1024)),
      () => clearInterval(poll),
    );
  }, 25);
  const { stdout } = await child.finally(() => clearInterval(poll));
  return { ms: performance.now() - begun, peakBytes, stdout };
}

/** The most that the tool and all programs it had started had together at one look: bytes of resident memory. */
export async function peakOfAll(args: readonly string[]): Promise<number> {
  const child = execa(process.execPath, [PROGRAM, ...args]);
  let ended = false;
  const over = child.finally(() => (ended = true));
  let peak = 0;
  while (!ended) peak = Math.max(peak, await residentOfAll(child.pid ?? 0));
  await over;
  return peak;
}

async function residentOfAll(root: number): Promise<number> {
  const rows = await Promise.all(
    (await readdir('/proc'))
      .filter((entry) => /^\d+$/.test(entry))
      .map(async (pid) => {
        const text = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
        const value = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(text)?.[1] ?? 0);
        return { pid: Number(pid), parent: value('PPid'), bytes: value('VmRSS') * 1024 };
      }),
  );
  const family = new Set([root]);
  for (let grown = 0; grown < family.size;) {
    grown = family.size;
    for (const { pid, parent } of rows) if (family.has(parent)) family.add(pid);
  }
  return rows.reduce((sum, { pid, bytes }) => (family.has(pid) ? sum + bytes : sum), 0);
}

export class Samples {
  readonly #samples = new Map<string, number[]>();
  readonly #notes = new Map<string, string>();
  #peak = 0;

  async add(name: string, body: () => Promise<unknown>): Promise<void> {
    const begun = performance.now();
    await body();
    this.addMs(name, performance.now() - begun);
  }

  addMs(name: string, ms: number): void {
    this.#samples.set(name, [...(this.#samples.get(name) ?? []), ms]);
  }

  note(name: string, text: string): void {
    this.#notes.set(name, text);
  }

  /** Bytes; the limit in MiB. */
  memory(bytes: number, limit: number): void {
    this.#peak = Math.max(this.#peak, bytes);
    this.note('peak memory of the tool', `${(this.#peak / MiB).toFixed(0)} MiB (at most ${limit})`);
  }

  notes(): string[][] {
    return [...this.#notes].map(([name, text]) => [name, text, '']);
  }

  /** The median. */
  readonly ms = (name: string): number => {
    const sorted = (this.#samples.get(name) ?? []).toSorted((a, b) => a - b);
    return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
  };
}

export function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(2)} s`;
}

export function ratio(a: number, b: number): string {
  return (a / b).toFixed(2);
}

export function print(heading: string, runs: number, rows: readonly (readonly string[])[]): void {
  process.stdout.write(`\n${heading} (medians of ${runs})\n`);
  for (const [name = '', value = '', note = ''] of rows) {
    process.stdout.write(`  ${name.padEnd(26)} ${value.padEnd(12)} ${note}\n`);
  }
}

/** The most memory that a run of a program takes, with all that it has started. */
import { readdir, readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import { MiB, type Program } from './case.js';

const LOOK_EVERY_MS = 25;

/** MiB of resident memory; pages that several of its processes share count for each. */
export async function peakMemory({ path }: Program, args: readonly string[]): Promise<number> {
  const child = execa(process.execPath, [path, '--quiet', ...args]);
  let ended = false;
  const over = child.finally(() => (ended = true));
  let peak = 0;
  while (!ended) {
    peak = Math.max(peak, await residentOfAll(child.pid ?? 0));
    await sleep(LOOK_EVERY_MS);
  }
  await over;
  return peak / MiB;
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

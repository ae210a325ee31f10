/** What a refusal must be: its exit code, words that help, and no trace of it anywhere. */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { lstat, readdir, realpath } from 'node:fs/promises';
import { join } from 'node:path';
import { expect } from 'vitest';
import { type CliResult, expectCli } from './cli.js';
import type { Scenario } from './scenario.js';

/** The program refuses with `exitCode` and says each of `words`. */
export async function expectRefused(
  exitCode: number,
  args: readonly string[],
  ...words: (string | RegExp)[]
): Promise<CliResult> {
  const result = await expectCli(exitCode, args);
  for (const word of words) expect(result.stderr).toMatch(word);
  expect(result.stdout).toBe('');
  return result;
}

/** Runs `step` and expects that QEMU, the folder of the test and the VM's locks are as they were before it. */
export async function leavingNoTrace(lab: Scenario, step: () => Promise<unknown>): Promise<void> {
  const before = await traces(lab);
  await step();
  const after = await traces(lab);
  // That of a dead run of another VM, whose QEMU had the same pid, goes with the first run that meets it.
  expect(after).toEqual({ ...before, locks: before.locks.filter((lock) => after.locks.includes(lock)) });
}

interface Traces extends Readonly<Record<string, unknown>> {
  readonly locks: readonly string[];
}

async function traces(lab: Scenario): Promise<Traces> {
  const nodes = (await lab.vm.control.execute('query-named-block-nodes', { flat: true })) as { 'node-name': string }[];
  return {
    files: await filesBelow(lab.dir),
    locks: await locksOf(lab.vm),
    bitmaps: await lab.bitmaps(),
    nodes: nodes.map((node) => node['node-name']),
    jobs: await lab.vm.control.execute('query-jobs'),
  };
}

/** Names, and the sizes of what a backup consists of. */
export async function filesBelow(folder: string): Promise<readonly string[]> {
  const names = await readdir(folder, { recursive: true });
  const files = names.map(async (name) => {
    const { size } = await lstat(join(folder, name));
    return /\.qcow2$|\.json$|\.partial$/.test(name) ? `${name} ${size}` : name;
  });
  return (await Promise.all(files)).toSorted();
}

/** The locks that are held of a VM: that of its monitor and that of its process, where a run of root keeps them. */
async function locksOf({ socket, pid, options }: Scenario['vm']): Promise<readonly string[]> {
  const uuid = options.uuid === undefined ? [] : [`uuid ${options.uuid}`];
  const keys = [await realpath(socket), `process ${pid}`, ...uuid];
  return keys.filter((key) => {
    const name = createHash('sha256').update(key).digest('hex').slice(0, 32);
    return existsSync(join('/run/lock/qmpbackup', name));
  });
}

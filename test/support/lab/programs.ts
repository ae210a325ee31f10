/**
 * Runs the programs the lab needs: qemu-img, e2fsprogs, the project's own scripts. Never through a shell.
 * /usr/sbin is added because e2fsprogs is there and a normal user of Debian does not have it in PATH.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
// Before PATH is read.
import './chosen-qemu.js';

export { projectRoot } from './project-root.js';

export interface ProgramResult {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

export const LAB_ENV: Readonly<Record<string, string>> = {
  LC_ALL: 'C',
  PATH: `${process.env.PATH ?? ''}:/usr/sbin:/sbin`,
};

/** Runs a program and throws, with its own words, unless its exit code is one of `allowed`. */
export async function run(
  program: string,
  args: readonly string[],
  options: { readonly allowed?: readonly number[]; readonly cwd?: string } = {},
): Promise<ProgramResult> {
  const { allowed = [0], cwd } = options;
  const result = await execa(program, args, { env: LAB_ENV, reject: false, stdin: 'ignore', ...(cwd && { cwd }) });
  const exitCode = result.exitCode;
  if (exitCode === undefined || !allowed.includes(exitCode)) {
    const words = [result.stderr, result.stdout].filter(Boolean).join('\n');
    throw new Error(
      `${program} ${args.join(' ')}: ${exitCode ?? result.signal ?? result.originalMessage ?? 'no exit code'}\n${words}`,
    );
  }
  return { exitCode, stdout: result.stdout, stderr: result.stderr };
}

/** A new folder for one test. Short on purpose: a unix socket's path is limited to 107 bytes. */
export async function makeLabDir(): Promise<string> {
  return mkdtemp(join(tmpdir(), 'qmplab-'));
}

/** Calls `use` with a temporary folder that is gone afterwards. */
export async function withTemporaryDir<T>(use: (dir: string) => Promise<T>): Promise<T> {
  const dir = await makeLabDir();
  try {
    return await use(dir);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

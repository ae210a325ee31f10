import { spawn } from 'node:child_process';
import type { ProgramEnd } from './program.js';

/** Runs a program whose output is data, which is taken as fast as `take` takes it. It is killed where that fails. */
export async function streamProgram(
  name: string,
  args: readonly string[],
  signal: AbortSignal,
  take: (bytes: Buffer) => Promise<void>,
): Promise<ProgramEnd> {
  const child = spawn(name, args, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, LC_ALL: 'C' } });
  let stderr = '';
  let failure: NodeJS.ErrnoException | null = null;
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
  const closed = new Promise<{ readonly exitCode: number | null; readonly signal: NodeJS.Signals | null }>(
    (resolve) => {
      child.once('error', (error) => {
        failure = error;
        resolve({ exitCode: null, signal: null });
      });
      child.once('close', (exitCode, by) => resolve({ exitCode, signal: by }));
    },
  );
  const kill = (): void => void child.kill('SIGKILL');
  signal.addEventListener('abort', kill, { once: true });
  try {
    for await (const chunk of child.stdout) await take(chunk as Buffer);
    return { ...(await closed), stdout: '', stderr, failure };
  } finally {
    signal.removeEventListener('abort', kill);
    kill();
  }
}

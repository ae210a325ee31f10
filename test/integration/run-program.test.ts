import { open, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { inspectProcess } from '../../src/host/lock-owner.js';
import { FIRST_FILE, runProgram, startProgram } from '../../src/host/program.js';
import { built } from '../support/built.js';
import { withTemporaryDir } from '../support/lab/programs.js';

// What each run of another program can count on. The program is a shell, which does what it is told.

const sh = (script: string, ...args: readonly string[]) => ['-c', script, ...args];
const SOON = { timeoutMs: 20_000 };

/** One that has ended and that nobody has waited for is none. */
function isAlive(pid: number): boolean {
  const state = inspectProcess(pid);
  return state !== 'gone' && !(state !== 'hidden' && state.zombie);
}

describe('a program that ends by itself', () => {
  it('is heard to its end, whatever its exit code', async () => {
    const end = await runProgram('sh', sh('echo said; echo complained >&2; exit 3'), SOON);
    expect(end).toEqual({
      ...{ exitCode: 3, signal: null, stdout: 'said\n', stderr: 'complained\n' },
      ...{ failure: null, late: false },
    });
  });

  it('gets its arguments as they are, speaks English, and has nothing to read', async () => {
    const { stdout } = await runProgram('sh', sh('cat; printf "%s\\n" "$LC_ALL" "$@"', 'sh', '$(id) *', ''), SOON);
    expect(stdout).toBe('C\n$(id) *\n\n');
  });

  it('reads what it was given, and files by their numbers', async () => {
    await withTemporaryDir(async (dir) => {
      await writeFile(join(dir, 'file'), 'of the file\n');
      const file = await open(join(dir, 'file'));
      const options = { ...SOON, cwd: dir, stdin: { text: 'of the input\n' }, files: [file] };
      const { stdout } = await runProgram('sh', sh(`cat; cat /proc/self/fd/${FIRST_FILE}; pwd`), options);
      await file.close();
      expect(stdout).toBe(`of the input\nof the file\n${dir}\n`);
    });
  });

  it('may end before it has read anything', async () => {
    const { exitCode } = await runProgram('true', [], { ...SOON, stdin: { text: 'x'.repeat(1_000_000) } });
    expect(exitCode).toBe(0);
  });

  it('is heard whatever it complains of', async () => {
    const { stderr } = await runProgram('sh', sh('echo first >&2; head -c 200000 /dev/zero | tr "\\0" . >&2'), SOON);
    expect(stderr).toMatch(/^first\n\.{200000}$/);
  });
});

it('tells that a program is missing', async () => {
  const end = await runProgram('no-such-program', [], SOON);
  expect(end).toMatchObject({ exitCode: null, late: false, failure: { code: 'ENOENT' } });
});

it.each([
  ['ENOTDIR', 'true', [], '/dev/null'],
  ['E2BIG', 'true', ['x'.repeat(200_000)], '/'],
])('tells why a program could not be started: %s', async (code, name, args, cwd) => {
  const end = await runProgram(name, args, { ...SOON, cwd });
  expect(end).toMatchObject({ exitCode: null, signal: null, late: false, failure: { code } });
});

it.each(['SIGTERM', 'SIGHUP', 'SIGABRT', 'SIGQUIT'] as const)('ends with us, where %s ends us', async (signal) => {
  const script = `
    const { startProgram } = await import(${JSON.stringify(await built('host/program.js'))});
    console.log((await startProgram('sleep', ['300'])).pid);
  `;
  const us = await startProgram(process.execPath, ['--input-type=module', '-e', script], {
    onStdout: (text) => (said += text),
  });
  let said = '';
  await expect.poll(() => said).toMatch(/^\d+\n$/);
  process.kill(us.pid, signal);
  expect(await us.ended).toMatchObject({ signal });
  await expect.poll(() => isAlive(Number(said))).toBe(false);
});

describe('a program that does not end', () => {
  it('is killed when its time is over, though what it has started holds its pipes', async () => {
    const begun = performance.now();
    const end = await runProgram('sh', sh('sleep 30 & echo $!; wait'), { timeoutMs: 300 });
    expect(end).toMatchObject({ late: true, signal: 'SIGKILL' });
    expect(performance.now() - begun).toBeLessThan(10_000);
    process.kill(Number(end.stdout), 'SIGKILL');
  });

  it('is killed by the signal of its run', async () => {
    const interrupt = new AbortController();
    const program = await startProgram('sleep', ['30'], { signal: interrupt.signal });
    interrupt.abort();
    expect(await program.ended).toMatchObject({ exitCode: null, signal: 'SIGKILL' });
    expect(isAlive(program.pid)).toBe(false);
  });

  it('may end in its own way, where it is given time', async () => {
    let said = '';
    const program = await startProgram('sh', sh('trap "echo bye; exit" TERM; echo up; while :; do sleep 0.05; done'), {
      termMs: 20_000,
      onStdout: (text) => (said += text),
    });
    await expect.poll(() => said).toBe('up\n');
    await program.kill();
    expect(said).toBe('up\nbye\n');
  });

  it('is killed where it does not', async () => {
    let said = '';
    const program = await startProgram('sh', sh('trap "" TERM; echo up; while :; do sleep 0.05; done'), {
      termMs: 300,
      onStdout: (text) => (said += text),
    });
    await expect.poll(() => said).toBe('up\n');
    await program.kill();
    expect(isAlive(program.pid)).toBe(false);
    expect(await program.ended).toMatchObject({ signal: 'SIGKILL' });
  });
});

it('is told more and more, and heard as it answers', async () => {
  let heard = '';
  const program = await startProgram('cat', [], {
    stdin: 'pipe',
    onStdout: (text) => {
      heard += text;
      if (heard === 'one\n') program.tell('two\n');
      if (heard === 'one\ntwo\n') void program.kill();
    },
  });
  program.tell('one\n');
  await program.ended;
  expect(heard).toBe('one\ntwo\n');
});

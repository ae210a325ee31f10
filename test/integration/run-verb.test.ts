import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, it, onTestFinished, vi } from 'vitest';
import { createRunVerb } from '../../src/cli/run-verb.js';
import type { StepEnd } from '../../src/run/step.js';

// What `run` hears of the program that it starts for a step, whatever that says.

afterEach(() => vi.unstubAllGlobals());

async function runs(
  program: string,
  {
    signal = new AbortController().signal,
    progress = () => undefined,
  }: { signal?: AbortSignal; progress?: (percent: number) => void } = {},
): Promise<StepEnd> {
  const dir = await mkdtemp(join(tmpdir(), 'qmpbackup-'));
  onTestFinished(() => rm(dir, { recursive: true }));
  const path = join(dir, 'program.mjs');
  await writeFile(path, program);
  const [before] = process.argv.slice(1, 2);
  process.argv[1] = path;
  try {
    return await createRunVerb()(['backup', '--target=/b'], { signal, progress });
  } finally {
    process.argv[1] = before ?? '';
  }
}

const say = (line: object): string =>
  `console.log(${JSON.stringify(JSON.stringify({ schema: 1, at: 't', ...line }))});\n`;

it('is given the arguments of the step', async () => {
  const end = await runs('console.error(process.argv.slice(2).join(" "));');
  expect(end.error?.message).toContain('--json=lines --quiet backup --target=/b');
});

it('tells of one that ends without an answer what it said last', async () => {
  const end = await runs('console.log("no JSON"); console.error("out of memory"); process.exit(7);');
  expect(end).toMatchObject({ exitCode: 7, findings: [], point: null, error: { code: 'failed' } });
  expect(end.error?.message).toMatch(
    /ended with 7 and no answer: .*no JSON\n.*out of memory|out of memory\n.*no JSON/s,
  );
});

it('hears an error with its code, and the warnings before it', async () => {
  const error = { code: 'locked', exitCode: 11, message: 'it is locked', hint: 'wait' };
  const end = await runs(
    say({ type: 'log', level: 'info', code: null, text: 'said' }) +
      say({ type: 'log', level: 'warning', code: 'left-behind', text: 'a warning' }) +
      say({ type: 'log', level: 'info', code: 'files-damaged', text: 'an older one' }) +
      say({ type: 'log', level: 'warning', code: 'disk-untracked', text: 'what a disk is like' }) +
      say({ type: 'error', error }) +
      'process.exitCode = 11;',
  );
  expect(end).toMatchObject({ exitCode: 11, error, warnings: ['a warning', 'an older one'] });
});

it('hears how far it has got, and what prune has done', async () => {
  const seen: number[] = [];
  const histories = [{ points: [{ kept: true }, { kept: false }], freed: 2048, missing: 1024, failed: null }];
  const end = await runs(
    say({
      type: 'progress',
      unit: 'bytes',
      parts: [
        { name: 'a', done: 1, total: 4 },
        { name: 'b', done: 1, total: 4 },
      ],
    }) +
      say({ type: 'answer', answer: { command: 'prune', histories, dryRun: false } }) +
      'process.exitCode = 3;',
    { progress: (percent) => seen.push(percent) },
  );
  expect(seen).toEqual([25]);
  expect(end).toMatchObject({ exitCode: 3, error: null, summary: '1 point kept, 1 gone, 2.0 KiB freed' });
  expect(end.findings).toEqual([expect.stringMatching(/1.0 KiB less is free/)]);
});

it('tells by which signal it was ended, and what of it is that of the run', async () => {
  const killed = await runs('process.kill(process.pid, "SIGKILL");');
  expect(killed.error?.message).toBe('the program ended with SIGKILL and no answer: it said nothing');
  const signal = AbortSignal.abort(new Error('interrupted by SIGTERM'));
  const ended = await runs('setInterval(() => undefined, 1000);', { signal });
  expect(ended).toMatchObject({ exitCode: 143, error: { message: 'interrupted by SIGTERM' } });
});

it('ends it where the run is ended', async () => {
  const end = new AbortController();
  const program = `${say({ type: 'progress', unit: 'bytes', parts: [] })}setInterval(() => undefined, 1000);`;
  const ended = await runs(program, { signal: end.signal, progress: () => end.abort(new Error('ended')) });
  expect(ended.exitCode).toBe(143);
});

it('says how many points verify has looked at, also of one', async () => {
  const target = { points: 1, findings: [], read: { files: 0, bytes: 0 }, booted: null };
  const summaryOf = async (targets: readonly object[]): Promise<string | null> =>
    (await runs(say({ type: 'answer', answer: { command: 'verify', targets } }))).summary;
  expect(await summaryOf([target])).toBe('1 point looked at');
  expect(await summaryOf([target, target])).toBe('2 points looked at');
});

import { appendFile, mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { lastWords, serialMatcher } from '../../../../src/operations/verify/serial-log.js';
import { watchAppetite } from '../../../../src/operations/verify/watch-appetite.js';

let folder = '';
let log = '';
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'qmpserial-'));
  log = join(folder, 'serial.log');
  await writeFile(log, '');
});
afterEach(() => rm(folder, { recursive: true }));

describe('serialMatcher', () => {
  it.each([1, 2, 7, 100])('fits on what comes in portions of %i bytes', async (length) => {
    const fits = serialMatcher(log, '^guest login: $');
    const text = 'no guest login: here\nWelcome\nguest login: ';
    for (let at = 0; at < text.length; at += length) {
      expect(await fits()).toBe(false);
      await appendFile(log, text.slice(at, at + length));
    }
    expect(await fits()).toBe(true);
    await appendFile(log, 'root\n');
    expect(await fits()).toBe(true);
  });

  it('finds a line at the end of much that it forgets, and takes no line for another because it was cut', async () => {
    const fits = serialMatcher(log, '^[tail]+ end$');
    await writeFile(log, `x${'tail'.repeat(600_000)} end\n`);
    expect(await fits()).toBe(false);
    await appendFile(log, `${'noise\n'.repeat(500_000)}tail end\n`);
    expect(await fits()).toBe(true);
  });
});

it('tells the last line of a log, without what is no text', async () => {
  expect(await lastWords(log)).toBeNull();
  await writeFile(log, `${'x'.repeat(200_000)}\n\x1b[0mkernel panic\r\n\n  \n`);
  expect(await lastWords(log)).toBe('[0mkernel panic');
});

describe('watchAppetite', () => {
  it('waits for a guest no longer that says more than any start does', async () => {
    const ending = new AbortController();
    const watched = watchAppetite({ folder, serialLog: log, signal: ending.signal });
    await truncate(log, 64 * 1024 * 1024 + 1);
    expect(await watched).toBe('it did not answer, and wrote 64.0 MiB to its serial port');
  });

  it('ends when it is told to', async () => {
    const ending = new AbortController();
    const watched = watchAppetite({ folder, serialLog: log, signal: ending.signal });
    ending.abort();
    await expect(watched).rejects.toThrow('aborted');
  });
});

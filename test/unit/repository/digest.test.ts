import { createHash } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { sha256File } from '../../../src/repository/digest.js';
import { scratchFolders } from '../../support/scratch-folder.js';

const scratch = scratchFolders();
const MiB = 1024 * 1024;

describe('sha256File', () => {
  it.each([0, 1, MiB - 1, MiB, MiB + 1, 3 * MiB, 5 * MiB + 7])('hashes %i bytes', async (size) => {
    const path = join(await scratch(), 'a');
    const content = Buffer.alloc(size, 'some text that is no divisor of a chunk');
    await writeFile(path, content);
    let counted = 0;
    const digest = await sha256File(path, { onBytes: (count) => (counted += count) });
    expect(digest).toBe(createHash('sha256').update(content).digest('hex'));
    expect(counted).toBe(size);
  });

  it('keeps to a rate', async () => {
    const path = join(await scratch(), 'a');
    await writeFile(path, Buffer.alloc(4 * MiB, 7));
    const begun = performance.now();
    expect(await sha256File(path, { rateLimit: 16 * MiB })).toBe(await sha256File(path));
    expect(performance.now() - begun).toBeGreaterThan(200);
  });

  it('ends when it is aborted, with the reason', async () => {
    const path = join(await scratch(), 'a');
    await writeFile(path, Buffer.alloc(8 * MiB));
    const stop = new AbortController();
    const reason = new Error('enough');
    const digest = sha256File(path, { signal: stop.signal, onBytes: () => stop.abort(reason) });
    await expect(digest).rejects.toBe(reason);
    await expect(sha256File(path, { signal: stop.signal })).rejects.toBe(reason);
  });

  it('names a file that it cannot read', async () => {
    const path = join(await scratch(), 'gone');
    await expect(sha256File(path)).rejects.toThrow(`cannot read ${path}: no such file`);
  });
});

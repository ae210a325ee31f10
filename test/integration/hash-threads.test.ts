import { open, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { Worker } from 'node:worker_threads';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { DIGEST_METHODS } from '../../src/core/pieces.js';
import * as source from '../../src/repository/digest.js';
import { built } from '../support/built.js';
import { listByCommands } from '../support/digest-commands.js';
import { run } from '../support/lab/programs.js';
import { scratchFolders } from '../support/scratch-folder.js';

const scratch = scratchFolders();
const MiB = 1024 * 1024;

async function large(): Promise<string> {
  const path = join(await scratch(), 'large');
  await truncate(await touched(path), 100 * MiB + 3);
  const handle = await open(path, 'r+');
  for (const at of [0, 5, 49, 99]) await handle.write(`number ${at}`, at * MiB);
  await handle.close();
  return path;
}

async function touched(path: string): Promise<string> {
  await (await open(path, 'w')).close();
  return path;
}

const modules = [
  ['as source', () => Promise.resolve(source)],
  ['as built', async () => (await import(pathToFileURL(await built('repository/digest.js')).href)) as typeof source],
] as const;

describe.each(modules)('a large file, hashed by threads %s,', (_, digests) => {
  it.each(DIGEST_METHODS)(
    'has the same digest by %s, by several threads, also of several files at once',
    async (method) => {
      const { digestByPieces, findDigestFault } = await digests();
      const [path, other] = [await large(), await large()];
      const list = await listByCommands(path, method);
      let counted = 0;
      const both = await Promise.all(
        [path, other].map((each) => digestByPieces(each, method, { onBytes: (count) => (counted += count) })),
      );
      expect(both.map((each) => each.list)).toEqual([list, list]);
      expect(counted).toBe(2 * (100 * MiB + 3));
      expect(await findDigestFault(path, { sha256: null, pieces: both[0]?.pieces })).toBeUndefined();
    },
  );

  it('is left when that is aborted, and can be read again', async () => {
    const { digestByPieces } = await digests();
    const path = await large();
    const stop = new AbortController();
    const reason = new Error('enough');
    const digest = digestByPieces(path, 'gmac', { signal: stop.signal, onBytes: () => stop.abort(reason) });
    await expect(digest).rejects.toBe(reason);
    expect((await digestByPieces(path, 'gmac')).digests).toHaveLength(26);
  });

  it('that cannot be read to its end fails as any other', async () => {
    const { digestByPieces } = await digests();
    // A folder can be opened, and not read.
    const folder = await scratch();
    await expect(digestByPieces(folder, 'gmac')).rejects.toThrow(`cannot read ${folder}: `);
    expect((await digestByPieces(await touched(join(folder, 'empty')), 'gmac')).list).toBe('');
  });
});

describe('a user who may have few threads', () => {
  afterEach(() => vi.restoreAllMocks());

  /** As the constructor fails by `ulimit -u`. */
  function allow(most: number): void {
    let left = most;
    class Limited extends Worker {
      constructor(...args: ConstructorParameters<typeof Worker>) {
        if (left-- <= 0) throw Object.assign(new Error('EAGAIN'), { code: 'ERR_WORKER_INIT_FAILED' });
        super(...args);
      }
    }
    const real = process.getBuiltinModule.bind(process);
    vi.spyOn(process, 'getBuiltinModule').mockImplementation((name: string): never =>
      name === 'node:worker_threads' ? ({ Worker: Limited } as never) : (real(name) as never),
    );
  }

  it('has the same digests, by those that there are', async () => {
    const path = await large();
    allow(1);
    const both = await Promise.all([path, path].map((each) => source.digestByPieces(each, 'gmac')));
    const list = await listByCommands(path, 'gmac');
    expect(both.map((each) => each.list)).toEqual([list, list]);
  });

  it('is told what to do where there is none, and has them the next time', async () => {
    const path = await large();
    allow(0);
    await expect(source.digestByPieces(path, 'gmac')).rejects.toMatchObject({
      message: 'a thread for digests has failed: EAGAIN',
      hint: expect.stringContaining('ulimit -u') as string,
    });
    vi.restoreAllMocks();
    expect((await source.digestByPieces(path, 'gmac')).digests).toHaveLength(26);
  });

  it('has the same digests where there is no room for threads', async () => {
    const path = await large();
    const module = pathToFileURL(await built('repository/digest.js')).href;
    const script = `console.log((await (await import('${module}')).digestByPieces('${path}', 'gmac')).list)`;
    const limited = ['--as=1500000000', process.execPath, '--input-type=module', '-e', script];
    const { stdout } = await run('prlimit', limited);
    expect(stdout.trim()).toBe((await listByCommands(path, 'gmac')).trim());
  });
});

import { createHash } from 'node:crypto';
import { open, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { DIGEST_METHODS, type DigestMethod, PIECE_BYTES, PIECES_SUFFIX } from '../../../src/core/pieces.js';
import {
  type DigestByPieces,
  digestByPieces,
  type DigestOptions,
  findDigestFault,
  sha256File,
} from '../../../src/repository/digest.js';
import { listByCommands } from '../../support/digest-commands.js';
import { scratchFolders } from '../../support/scratch-folder.js';

const scratch = scratchFolders();
const MiB = 1024 * 1024;

async function fileOf(size: number): Promise<{ readonly path: string; readonly content: Buffer }> {
  const path = join(await scratch(), 'a');
  const content = Buffer.alloc(size, 'some text that is no divisor of a chunk');
  await writeFile(path, content);
  return { path, content };
}

async function alter(path: string, ...places: readonly number[]): Promise<void> {
  const handle = await open(path, 'r+');
  for (const place of places) await handle.write(Buffer.from([0]), 0, 1, place);
  await handle.close();
}

function byPieces(method: DigestMethod) {
  return (path: string, options?: DigestOptions): Promise<DigestByPieces> => digestByPieces(path, method, options);
}

const DIGESTS: readonly (readonly [string, (path: string, options?: DigestOptions) => Promise<unknown>])[] = [
  ['sha256File', sha256File],
  ...DIGEST_METHODS.map((method) => [`digestByPieces by ${method}`, byPieces(method)] as const),
];

describe.each(DIGESTS)('%s', (_, digestOf) => {
  it('keeps to a rate', async () => {
    const { path } = await fileOf(4 * MiB);
    const begun = performance.now();
    expect(await digestOf(path, { rateLimit: 16 * MiB })).toEqual(await digestOf(path));
    expect(performance.now() - begun).toBeGreaterThan(200);
  });

  it('tells of all bytes', async () => {
    let counted = 0;
    await digestOf((await fileOf(9 * MiB + 7)).path, { onBytes: (count) => (counted += count) });
    expect(counted).toBe(9 * MiB + 7);
  });

  it('ends when it is aborted, with the reason', async () => {
    const { path } = await fileOf(8 * MiB);
    const stop = new AbortController();
    const reason = new Error('enough');
    const digest = digestOf(path, { signal: stop.signal, onBytes: () => stop.abort(reason) });
    await expect(digest).rejects.toBe(reason);
    await expect(digestOf(path, { signal: stop.signal })).rejects.toBe(reason);
  });

  it('names a file that it cannot read', async () => {
    const path = join(await scratch(), 'gone');
    await expect(digestOf(path)).rejects.toThrow(`cannot read ${path}: no such file`);
  });
});

describe('sha256File', () => {
  it.each([0, 1, MiB - 1, MiB, MiB + 1, 3 * MiB, 5 * MiB + 7])('hashes %i bytes', async (size) => {
    const { path, content } = await fileOf(size);
    expect(await sha256File(path)).toBe(createHash('sha256').update(content).digest('hex'));
  });
});

describe.each(DIGEST_METHODS)('digestByPieces by %s', (method) => {
  it.each([0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES + 5])(
    'of %i bytes is what the commands of decision 24 make of it',
    async (size) => {
      const { path } = await fileOf(size);
      const { pieces, list } = await digestByPieces(path, method);
      expect(list).toBe(await listByCommands(path, method));
      expect(pieces).toEqual({ bytes: PIECE_BYTES, sha256: createHash('sha256').update(list).digest('hex'), method });
    },
  );
});

describe.each(DIGEST_METHODS)('findDigestFault by %s', (method) => {
  it('proves a file by its pieces, without their list, and by a digest of the whole', async () => {
    const { path } = await fileOf(9 * MiB);
    const { pieces } = await digestByPieces(path, method);
    const recorded = [{ sha256: null, pieces }, { sha256: await sha256File(path) }];
    for (const each of recorded) expect(await findDigestFault(path, each)).toBeUndefined();
    await alter(path, 0);
    for (const each of recorded) expect(await findDigestFault(path, each)).toEqual({ ranges: null });
    expect(await findDigestFault(path, { sha256: null })).toBeUndefined();
  });

  it('tells where it differs, as far as the list is the recorded one', async () => {
    const { path } = await fileOf(9 * MiB);
    const { pieces, list } = await digestByPieces(path, method);
    const recorded = { sha256: null, pieces };
    await writeFile(`${path}${PIECES_SUFFIX}`, list);
    await alter(path, 1, 9 * MiB - 1);
    const ranges = [
      { start: 0, end: 4 * MiB },
      { start: 8 * MiB, end: 9 * MiB },
    ];
    expect(await findDigestFault(path, recorded)).toEqual({ ranges });
    for (const other of [list.replace('a', 'b'), list.slice(1), '']) {
      await writeFile(`${path}${PIECES_SUFFIX}`, other);
      expect(await findDigestFault(path, recorded)).toEqual({ ranges: null });
    }
    await rm(`${path}${PIECES_SUFFIX}`);
    expect(await findDigestFault(path, recorded)).toEqual({ ranges: null });
  });

  it('keeps to the recorded length of pieces', async () => {
    const { path, content } = await fileOf(MiB);
    const half = (start: number): string =>
      createHash('sha256')
        .update(content.subarray(start, start + MiB / 2))
        .digest('hex');
    const list = `${half(0)}\n${half(MiB / 2)}\n`;
    const pieces = { bytes: MiB / 2, sha256: createHash('sha256').update(list).digest('hex') };
    expect(await findDigestFault(path, { sha256: null, pieces })).toBeUndefined();
  });
});

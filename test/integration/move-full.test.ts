import { copyFile, mkdir, open, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { movableFull } from '../../src/consolidation/movable-full.js';
import { moveFull } from '../../src/consolidation/move-full.js';
import type { PointDisk } from '../../src/core/point.js';
import { canShareBlocks } from '../../src/host/copy-file.js';
import { check } from '../../src/qemu-tools/steps.js';
import { digestByPieces } from '../../src/repository/digest.js';
import type { KnownImage } from '../../src/repository/seal-file.js';
import {
  copyLab,
  expectSame,
  fakeProgram,
  type Lab,
  labIn,
  makeDisk,
  makeLab,
  refusal,
  type Step,
  withPieceList,
} from '../support/chains.js';
import { run } from '../support/lab/programs.js';
import { mountReflinked } from '../support/mounts.js';

/** A FULL whose file is copied, and written into. */

const MiB = 1024 * 1024;
const PARTIAL = 'FULL-99.qcow2.partial';
const options = { signal: new AbortController().signal, onProgress: () => undefined };

type Where = 'copied' | 'shared';

async function labOf(where: Where): Promise<Lab> {
  const lab = await makeLab();
  if (where === 'copied') return lab;
  const folder = join(lab.root, 'xfs');
  await mountReflinked(folder, 512 * MiB);
  return { ...lab, ...labIn(folder), root: lab.root, flat: lab.flat, remove: lab.remove };
}

async function line(lab: Lab, steps: readonly Omit<Step, 'file' | 'on'>[]): Promise<readonly PointDisk[]> {
  const fileOf = (n: number): string => (n === 0 ? 'FULL-10.qcow2' : `INC-${10 + n}.qcow2`);
  const all = steps.map((step, n): Step => ({ ...step, file: fileOf(n), ...(n > 0 ? { on: fileOf(n - 1) } : {}) }));
  const entries: PointDisk[] = [];
  for (const each of await makeDisk(lab, 'd1', all)) entries.push(await withPieceList(lab, each));
  return entries;
}

const FULL = { size: 32, io: ['write -P 1 0 8M', 'write -P 2 12M 9M', 'write -z 13M 1M'] };

/** Moves it; the FULL is as it was, and the new file is the last state, with the digests that it has as a whole. */
async function expectMoved(lab: Lab, files: readonly PointDisk[]): Promise<void> {
  const dir = lab.folder('d1');
  const before = await readFile(join(dir, files[0]!.file));
  const path = join(dir, PARTIAL);
  const { report, digest } = await move(lab, files);
  await expectSame(path, lab.flat('d1', files.at(-1)!.file));
  expect(digest).toEqual(await digestByPieces(path, 'gmac'));
  expect(report).toMatchObject({ corruptions: 0, checkErrors: 0, leaks: 0 });
  expect((await check(path)).imageEnd).toBeGreaterThanOrEqual((await stat(path)).size);
  expect((await readFile(join(dir, files[0]!.file))).equals(before)).toBe(true);
}

/** Any increment: whole clusters or parts of them, of the last one too. */
const io = fc
  .tuple(
    fc.constantFrom('write -P', 'write -z', 'discard', 'zeros'),
    fc.nat({ max: 511 }),
    fc.integer({ min: 1, max: 24 }),
    fc.integer({ min: 1, max: 255 }),
  )
  .map(([what, at, length, pattern]) => {
    const [start, bytes] = [at * 65_536, Math.min(length, 512 - at) * 65_536];
    if (what === 'zeros') return `write -P 0 ${start + 512} ${bytes - 512}`;
    return what === 'write -P' ? `write -P ${pattern} ${start} ${bytes}` : `${what} ${start} ${bytes}`;
  });

describe.each(['copied', 'shared'] as const)('a FULL that is moved, its file %s', (where) => {
  it('is the last state, whatever the increments write, zero and discard', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.array(io, { minLength: 1, maxLength: 6 }), { minLength: 1, maxLength: 4 }),
        async (increments) => {
          const lab = await labOf(where);
          await expectMoved(lab, await line(lab, [FULL, ...increments.map((each) => ({ size: 32, io: each }))]));
        },
      ),
      { numRuns: 8, endOnFailure: true },
    );
  });

  it('holds all of an increment that has every cluster, and of one that zeroes every cluster', async () => {
    for (const io of ['write -P 7 0 32M', 'write -z 0 32M']) {
      const lab = await labOf(where);
      await expectMoved(lab, await line(lab, [FULL, { size: 32, io: [io] }]));
    }
  });

  it('has a single piece, of which there is no list', async () => {
    const lab = await labOf(where);
    const files = await line(lab, [
      { size: 32, io: ['write -P 1 0 1M'] },
      { size: 32, io: ['write -P 7 512k 2M', 'write -z 0 256k'] },
    ]);
    await expectMoved(lab, files);
    await rotAt(lab, files[0]!.file, MiB);
    expect(await movableFull(lab.folder('d1'), files, options.signal)).toBeUndefined();
  });

  it('has been moved before', async () => {
    const lab = await labOf(where);
    const files = await line(lab, [
      FULL,
      { size: 32, io: ['write -P 7 30M 2M', 'write -z 0 8M'] },
      { size: 32, io: ['write -P 9 4M 6M'] },
    ]);
    await expectMoved(lab, files.slice(0, 2));
    const again = 'FULL-50.qcow2';
    await copyFile(join(lab.folder('d1'), PARTIAL), join(lab.folder('d1'), again));
    const { size } = await stat(join(lab.folder('d1'), again));
    const full = await withPieceList(lab, { ...files[0]!, file: again, size });
    await expectMoved(lab, [full, files[2]!]);
  });

  it('is refused where the old file has rotted in a piece that changes', async () => {
    const lab = await labOf(where);
    const files = await line(lab, [FULL, { size: 32, io: ['write -P 7 1M 1M'] }]);
    await rotAt(lab, files[0]!.file, 3 * MiB);
    const error = await refusal(move(lab, files));
    expect([error.code, error.message]).toEqual(['damaged', expect.stringContaining('from byte 0 to 4194303')]);
  });

  it('where it has rotted elsewhere, is refused or keeps the digest by which that is found', async () => {
    const lab = await labOf(where);
    const files = await line(lab, [FULL, { size: 32, io: ['write -P 7 1M 1M'] }]);
    await rotAt(lab, files[0]!.file, 9 * MiB);
    if (where === 'copied') {
      const error = await refusal(move(lab, files));
      expect([error.code, error.message]).toEqual([
        'damaged',
        expect.stringContaining('from byte 8388608 to 12582911'),
      ]);
      return;
    }
    const { digest } = await move(lab, files);
    const now = await digestByPieces(join(lab.folder('d1'), PARTIAL), 'gmac');
    expect(now.digests.flatMap((each, index) => (each === digest.digests[index] ? [] : [index]))).toEqual([2]);
  });
});

it('shares blocks by the file system that a link leads to', async () => {
  const lab = await labOf('shared');
  const [onXfs, toXfs] = [join(lab.root, 'xfs'), join(lab.root, 'link')];
  await symlink(onXfs, toXfs);
  await symlink(lab.root, join(onXfs, 'away'));
  expect([onXfs, toXfs, lab.root, join(onXfs, 'away')].map(canShareBlocks)).toEqual([true, true, false, false]);
});

it('is moved wherever it lies, and of more increments than are opened at once', async () => {
  const lab = await makeLab();
  const odd = join(lab.root, `-a, "b' %s=\\ c`);
  await mkdir(odd);
  const there: Lab = { ...labIn(odd), root: lab.root, remove: lab.remove };
  const increments = Array.from({ length: 103 }, (_, n) => ({ size: 32, io: [`write -P ${n + 3} ${n * 256}k 512k`] }));
  await expectMoved(there, await line(there, [FULL, ...increments]));
});

it('is refused where the storage has kept other bytes than were copied', async () => {
  const lab = await makeLab();
  const files = await line(lab, [FULL, { size: 32, io: ['write -P 7 1M 1M'] }]);
  const dd = (await run('which', ['dd'])).stdout.trim();
  const wrong = `printf x | ${dd} "$2" bs=1 seek=9000000 conv=notrunc status=none`;
  await fakeProgram(lab, 'dd', `${dd} "$@" || exit\ncase $2 in of=*) ${wrong} ;; esac`);
  const error = await refusal(move(lab, files));
  expect([error.code, error.message]).toEqual(['failed', expect.stringContaining('it is no copy of FULL-10.qcow2')]);
});

describe('a FULL is made from the beginning', () => {
  const inc = { size: 32, io: ['write -P 7 1M 1M'] };
  it.each([
    ['that is compressed', ([full, ...rest]: readonly PointDisk[]) => [{ ...full!, compressed: true }, ...rest]],
    ['without pieces', ([full, ...rest]: readonly PointDisk[]) => [{ ...full!, pieces: undefined }, ...rest]],
    ['of another disk size', ([full, ...rest]: readonly PointDisk[]) => [{ ...full!, virtualSize: MiB }, ...rest]],
    [
      'with a weaker digest than an increment',
      ([full, ...rest]: readonly PointDisk[]) => [
        full!,
        ...rest.map((each) => ({ ...each, sha256: 'a'.repeat(64), pieces: undefined })),
      ],
    ],
  ])('%s', async (_, changed) => {
    const lab = await makeLab();
    const files = await line(lab, [FULL, inc]);
    expect(await movableFull(lab.folder('d1'), files, options.signal)).toBeDefined();
    expect(await movableFull(lab.folder('d1'), changed(files), options.signal)).toBeUndefined();
  });

  it('whose list of pieces is gone, or which has bitmaps', async () => {
    const lab = await makeLab();
    const files = await line(lab, [FULL, inc]);
    const full = join(lab.folder('d1'), files[0]!.file);
    const without = await copyLab(lab);
    await rm(join(without.folder('d1'), `${files[0]!.file}.pieces`));
    expect(await movableFull(without.folder('d1'), files, options.signal)).toBeUndefined();
    await run('qemu-img', ['bitmap', '--add', full, 'somebody']);
    expect(await movableFull(lab.folder('d1'), files, options.signal)).toBeUndefined();
  });
});

async function move(lab: Lab, files: readonly PointDisk[]): Promise<KnownImage> {
  const dir = lab.folder('d1');
  const moved = await movableFull(dir, files, options.signal);
  await writeFile(join(dir, PARTIAL), '');
  return moveFull({ dir, partial: PARTIAL }, moved!, options);
}

async function rotAt(lab: Lab, file: string, at: number): Promise<void> {
  const handle = await open(join(lab.folder('d1'), file), 'r+');
  await handle.write(Buffer.from([0x55]), 0, 1, at);
  await handle.close();
}

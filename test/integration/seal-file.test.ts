import { open, readFile } from 'node:fs/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createImage, isEmptyImage } from '../../src/host/empty-image.js';
import { sealFile } from '../../src/repository/seal-file.js';
import { Staging } from '../../src/repository/staging.js';
import { MiB } from '../support/builders.js';
import { firstInPath } from '../support/first-in-path.js';
import { run } from '../support/lab/programs.js';
import { labDir } from '../support/scenario.js';

const EMPTY = { size: 8 * MiB, backing: 'FULL-1.qcow2' };
const FILE = { disk: 'vda', file: 'INC-2.qcow2' };
const OPTIONS = { digests: 'gmac', signal: new AbortController().signal } as const;

let staging: Staging;
let path: string;
beforeEach(async () => {
  staging = new Staging(await labDir());
  await staging.makeDiskFolder(FILE.disk);
  path = await staging.reserve(FILE.disk, FILE.file);
  await createImage(path, EMPTY);
});
afterEach(() => staging.undo());

async function overwrite(at: number, bytes: Uint8Array): Promise<void> {
  const file = await open(path, 'r+');
  await file.write(bytes, 0, bytes.length, at);
  await file.close();
}

describe('an image into which nothing was copied', () => {
  it('is sealed without qemu-img, where it is byte for byte what was made', async () => {
    await firstInPath('qemu-img', await labDir(), 'exit 1');
    const before = await readFile(path);
    const sealed = await sealFile(staging, { ...FILE, path, empty: EMPTY }, OPTIONS);
    expect(sealed).toMatchObject({ size: before.length, pieces: { method: 'gmac' } });
    expect(await readFile(staging.filePath(FILE.disk, FILE.file))).toEqual(before);
  });

  it('is still empty after QEMU had it open for writing', async () => {
    await run('qemu-io', ['-f', 'qcow2', '-c', 'flush', `json:${JSON.stringify(withoutParent(path))}`]);
    expect(await isEmptyImage(path, EMPTY)).toBe(true);
  });

  it.each([
    { change: 'a bit of a refcount', at: 2 * 65536 + 1, bytes: Uint8Array.of(3) },
    { change: 'an entry of the L1 table', at: 3 * 65536, bytes: Uint8Array.of(0x80, 0, 0, 0, 0, 9, 0, 0) },
    { change: 'bytes behind its end', at: 5 * 65536, bytes: Uint8Array.of(1) },
  ])('is checked, and refused, where it has $change', async ({ at, bytes }) => {
    await overwrite(at, bytes);
    expect(await isEmptyImage(path, EMPTY)).toBe(false);
    const sealing = sealFile(staging, { ...FILE, path, empty: EMPTY }, OPTIONS);
    await expect(sealing).rejects.toThrow(/vda: qemu-img check found damage in the new image/);
  });

  it('is another one with another name of its parent, or of another size', async () => {
    expect(await isEmptyImage(path, { ...EMPTY, backing: 'FULL-9.qcow2' })).toBe(false);
    expect(await isEmptyImage(path, { ...EMPTY, size: 9 * MiB })).toBe(false);
  });
});

function withoutParent(filename: string): object {
  return { driver: 'qcow2', backing: null, file: { driver: 'file', filename } };
}

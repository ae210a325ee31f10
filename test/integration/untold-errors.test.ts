import { stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { sealFile } from '../../src/repository/seal-file.js';
import { openSink } from '../../src/qemu-tools/image-writer.js';
import { createImage } from '../../src/host/empty-image.js';
import { check, convert } from '../../src/qemu-tools/steps.js';
import { Staging } from '../../src/repository/staging.js';
import { MiB } from '../support/builders.js';
import { run } from '../support/lab/programs.js';
import { labDir } from '../support/scenario.js';

/**
 * Storage that takes the data and refuses the tables of the image, which QEMU writes when it closes it (a quota, a
 * device that fails): qemu-img and qemu-io say so and end with 0.
 */
const REFUSED = { event: 'flush_to_os', errno: 28 };
const WORDS = /failed: Failed to flush the (L2 table|refcount block) cache: No space left on device/;
const signal = new AbortController().signal;

let folder: string;
let staging: Staging;
let image: string;
let source: string;
beforeEach(async () => {
  folder = await labDir();
  staging = new Staging(folder);
  await staging.makeDiskFolder('vda');
  image = await staging.reserve('vda', 'FULL-1.qcow2');
  await createImage(image, { size: 8 * MiB });
  source = join(folder, 'source');
  await run('qemu-img', ['create', '-q', '-f', 'raw', source, '8M']);
  await run('qemu-io', ['-f', 'raw', '-c', 'write -P 7 0 8M', source]);
});
afterEach(async () => {
  // The tests have shown something only if the image is empty and sound all the same.
  expect(await check(image)).toMatchObject({ corruptions: 0, leaks: 0, checkErrors: 0 });
  expect(
    (await run('qemu-img', ['compare', '-f', 'raw', '-F', 'qcow2', source, image], { allowed: [0, 1] })).exitCode,
  ).toBe(1);
  await staging.undo();
});

/** The image for qemu-img, on such storage. */
async function refusing(): Promise<string> {
  const rules = join(folder, 'rules');
  await writeFile(rules, `[inject-error]\nevent = "${REFUSED.event}"\nerrno = "${REFUSED.errno}"\n`);
  return `blkdebug:${rules}:${image}`;
}

describe('an image whose tables could not be written when it was closed', () => {
  it('fails the copy, though qemu-img ends with 0', async () => {
    const to = await refusing();
    const bare = await run('qemu-img', ['convert', '-n', '--target-is-zero', '-f', 'raw', '-O', 'qcow2', source, to]);
    expect(bare.exitCode).toBe(0);
    const view = `json:${JSON.stringify({ driver: 'raw', file: { driver: 'file', filename: source } })}`;
    await expect(convert(view, to, { existing: true, cwd: '/' })).rejects.toThrow(WORDS);
  });

  it('fails what is written through qemu-io', async () => {
    const file = { driver: 'blkdebug', 'inject-error': [REFUSED], image: { driver: 'file', filename: image } };
    const sink = await openSink({ driver: 'qcow2', file }, { cwd: dirname(image), signal });
    try {
      await sink.write(0, Buffer.alloc(MiB, 7));
      await expect(sink.finish()).rejects.toThrow(/No space left on device/);
    } finally {
      await sink.close();
    }
  });

  it('is never sealed, whoever wrote it', async () => {
    await run('qemu-img', ['convert', '-n', '-f', 'raw', '-O', 'qcow2', source, await refusing()]);
    expect((await stat(image)).size).toBeGreaterThan(8 * MiB);
    const sealed = sealFile(
      staging,
      { disk: 'vda', file: 'FULL-1.qcow2', path: image, empty: { size: 8 * MiB } },
      { digests: null, signal },
    );
    await expect(sealed).rejects.toThrow(/found damage in the new image: \d+ bytes at its end belong to nothing/);
  });
});

import { mkdir, rename, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { imageBitmaps, removeImageBitmap } from '../../src/qemu-tools/bitmaps.js';
import { examine, readHeader } from '../../src/qemu-tools/examine.js';
import { imageFile } from '../../src/qemu-tools/image-file.js';
import { viewOf } from '../../src/qemu-tools/image-view.js';
import { QemuImgMissing, runLong, runShort } from '../../src/qemu-tools/runner.js';
import { createImage } from '../../src/host/empty-image.js';
import { check, compare, convert, qemuImgInfo, map, rebaseUnsafe } from '../../src/qemu-tools/steps.js';
import { MiB } from '../support/builders.js';
import { type Lab, makeLab, refusal } from '../support/chains.js';
import { run } from '../support/lab/programs.js';
import { patient } from '../support/patience.js';

let lab: Lab;
const path = process.env.PATH;
beforeEach(async () => {
  lab = await makeLab();
});
afterEach(async () => {
  process.env.PATH = path;
  await lab.remove();
});

/** Puts a qemu-img of our own first in PATH. */
async function replaceQemuImg(script: string): Promise<void> {
  const bin = join(lab.root, 'bin');
  await mkdir(bin);
  await writeFile(join(bin, 'qemu-img'), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  process.env.PATH = `${bin}:${path}`;
}

describe.each([
  ['a short run', runShort],
  ['a long run', runLong],
])('%s', (_name, start) => {
  it('fails in the words of qemu-img, with the file instead of the whole view', async () => {
    const view = viewOf(['/nowhere/FULL-1.qcow2', '/nowhere/INC-2.qcow2']);
    const refused = await refusal(start(['compare', view, view]));
    expect(refused.code).toBe('failed');
    expect(refused.message).toBe(
      "qemu-img compare failed: Could not open '/nowhere/INC-2.qcow2': Could not open '/nowhere/INC-2.qcow2': No such file or directory",
    );
  });

  it('says that qemu-img is missing and how to install it, or that the folder is gone', async () => {
    process.env.PATH = lab.root;
    const refused = await refusal(start(['--version']));
    expect(refused).toBeInstanceOf(QemuImgMissing);
    expect(refused.hint).toContain('apt install qemu-utils');
    process.env.PATH = path;
    const gone = await refusal(start(['--version'], { cwd: join(lab.root, 'gone') }));
    expect(gone.message).toContain('is gone');
  });

  it('ends with the reason of its signal', async () => {
    await replaceQemuImg('exec sleep 60');
    const begun = performance.now();
    const signal = AbortSignal.timeout(300);
    await expect(start(['x'], { signal })).rejects.toBe(await reasonOf(signal));
    expect(performance.now() - begun).toBeLessThan(patient(10_000));
    await expect(start(['x'], { signal })).rejects.toBe(signal.reason);
  });
});

/** The very error that a signal aborts with, which exists only then. */
async function reasonOf(signal: AbortSignal): Promise<unknown> {
  await new Promise((resolve) => signal.addEventListener('abort', resolve));
  return signal.reason;
}

describe('the runner', () => {
  it('ends a short run at its deadline', async () => {
    await replaceQemuImg('exec sleep 60');
    const refused = await refusal(runShort(['info'], { timeoutMs: 200 }));
    expect(refused.message).toBe('qemu-img info failed: it did not end within 0.2 s');
  });

  it('speaks English whatever the locale', async () => {
    await replaceQemuImg('echo "$LC_ALL"');
    expect((await runShort(['x'])).stdout).toBe('C\n');
  });
});

describe('the steps', () => {
  it('compare at a rate', async () => {
    await createImage(join(lab.root, 'a.qcow2'), { size: 8 * MiB });
    await run('qemu-io', ['-f', 'qcow2', '-c', 'write -P 5 0 8M', join(lab.root, 'a.qcow2')]);
    const view = viewOf(['a.qcow2']);
    const begun = performance.now();
    expect(await compare(view, view, { cwd: lab.root, rateLimit: 4 * MiB })).toBe(true);
    expect(performance.now() - begun).toBeGreaterThan(1000);
  });

  it('make images and overlays that open no parent, check, compare, convert, map and link them', async () => {
    const [full, inc] = [join(lab.root, 'FULL-1.qcow2'), join(lab.root, 'INC-2.qcow2')];
    await createImage(full, { size: MiB, compressionType: 'zstd' });
    await createImage(inc, { size: 2 * MiB, backing: 'FULL-1.qcow2' });
    expect(await readHeader(full, 'full')).toMatchObject({ compressionType: 'zstd', clusterSize: 65_536 });
    expect(await readHeader(inc, 'inc')).toMatchObject({
      virtualSize: 2 * MiB,
      backingFile: 'FULL-1.qcow2',
      backingFormat: 'qcow2',
    });
    await rename(full, join(lab.root, 'away'));
    expect(await check(inc)).toMatchObject({ corruptions: 0, leaks: 0, checkErrors: 0, leaksFixed: 0 });
    expect(await qemuImgInfo(inc)).toMatchObject({ format: 'qcow2', virtualSize: 2 * MiB });
    await rename(join(lab.root, 'away'), full);

    await run('qemu-io', ['-f', 'qcow2', '-c', 'write -P 5 64k 64k', inc]);
    const cwd = lab.root;
    const view = viewOf(['FULL-1.qcow2', 'INC-2.qcow2']);
    expect(await compare(view, viewOf(['FULL-1.qcow2']), { cwd })).toBe(false);
    const percents: number[] = [];
    const copy = join(lab.root, 'copy.qcow2');
    await convert(view, copy, { cwd, onProgress: (percent) => percents.push(percent) });
    expect(percents.at(-1)).toBe(100);
    expect(await compare(view, viewOf(['copy.qcow2']), { cwd })).toBe(true);
    expect((await map(view, { cwd })).filter(({ data }) => data)).toMatchObject([{ start: 65_536, length: 65_536 }]);
    await rebaseUnsafe(inc, 'FULL-9.qcow2');
    expect((await readHeader(inc, 'inc')).backingFile).toBe('FULL-9.qcow2');
  });

  it('find and remove bitmaps of an image', async () => {
    const path = join(lab.root, 'a.qcow2');
    await createImage(path, { size: MiB });
    await run('qemu-img', ['bitmap', '--add', path, 'qmpbackup-x']);
    await run('qemu-img', ['bitmap', '--add', path, 'other']);
    const image = await imageFile({ path, format: 'qcow2' });
    expect(await imageBitmaps(image)).toEqual([
      { name: 'qmpbackup-x', inconsistent: false },
      { name: 'other', inconsistent: false },
    ]);
    await removeImageBitmap(image, 'qmpbackup-x');
    expect(await imageBitmaps(image)).toEqual([{ name: 'other', inconsistent: false }]);
  });
});

describe('examine', () => {
  it('refuses what is no regular file without opening it', async () => {
    const none = { links: [null] };
    await symlink('/etc/passwd', join(lab.root, 'link'));
    await run('mkfifo', [join(lab.root, 'pipe')]);
    await mkdir(join(lab.root, 'folder'));
    expect((await refusal(examine(lab.root, { file: 'link', ...none }))).message).toBe('link is a symbolic link');
    for (const file of ['pipe', 'folder']) {
      expect((await refusal(examine(lab.root, { file, ...none }))).message).toBe(`${file} is not a regular file`);
    }
    expect(await refusal(examine(lab.root, { file: 'gone', ...none }))).toMatchObject({
      code: 'unsafe',
      message: 'gone is missing',
    });
  });

  it('takes another folder or a missing format only where links are overridden', async () => {
    const image = join(lab.root, 'INC-2');
    await run('qemu-img', ['create', '-q', '-u', '-f', 'qcow2', '-F', 'qcow2', '-b', '/old/FULL-1', image, '1M']);
    const expected = { file: 'INC-2', links: ['FULL-1'] };
    expect(await refusal(examine(lab.root, expected))).toMatchObject({ code: 'unsafe' });
    expect(await examine(lab.root, { ...expected, loose: true })).toMatchObject({ backingFile: '/old/FULL-1' });
    const other = { ...expected, links: ['FULL-2'], loose: true };
    expect((await refusal(examine(lab.root, other))).message).toBe('INC-2 builds on /old/FULL-1, expected is FULL-2');
  });
});

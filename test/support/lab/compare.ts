/**
 * Truth is bytes: whether two images, the files in them, or the numbers of the counter are what they must be.
 * No image is mounted and none is changed; an image that QEMU has open is read as it is in the file, which may lag.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, readdir, readFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { COUNTER_OFFSET } from './disk-images.js';
import { run, withTemporaryDir } from './programs.js';

/** Throws unless both images hold the same bytes. A chain is followed. */
export async function compareImages(a: string, b: string): Promise<void> {
  const result = await run('qemu-img', ['compare', '-U', a, b], { allowed: [0, 1] });
  if (result.exitCode === 1) throw new Error(`${a} and ${b} differ: ${result.stdout}`);
}

/**
 * Throws unless the ext4 file system that fills the image was cleanly unmounted or frozen: no journal to replay and
 * nothing for e2fsck to repair.
 */
export async function checkFs(image: string): Promise<void> {
  await withRaw(image, (raw) => checkRawFs(raw, image));
}

/**
 * Throws unless the file system is whole after its journal has been replayed, as after a power cut: what a point
 * that was taken without a freeze promises.
 */
export async function checkFsAfterReplay(image: string): Promise<void> {
  await withRaw(image, async (raw) => {
    await run('e2fsck', ['-fp', raw], { allowed: [0, 1] });
    await checkRawFs(raw, image);
  });
}

/** The sha256 of every regular file in an ext4 image, by path without a leading slash. */
export async function fileChecksums(image: string): Promise<Map<string, string>> {
  return withFiles(image, async (folder) => {
    const sums = new Map<string, string>();
    for (const entry of await readdir(folder, { withFileTypes: true, recursive: true })) {
      if (!entry.isFile()) continue;
      const file = join(entry.parentPath, entry.name);
      sums.set(relative(folder, file), await sha256(file));
    }
    return new Map([...sums].sort(([a], [b]) => (a < b ? -1 : 1)));
  });
}

export interface WriterFiles {
  /** Files whose checksum is the one that the guest noted. */
  readonly matched: number;
  /** Files that were being written at the instant. At most one. */
  readonly inFlux: number;
}

/**
 * Checks the files of `workload=writer` against the manifest that the guest wrote along with them, in the same file
 * system. Holds for a state taken while the file system was frozen or unmounted.
 */
export async function checkWrittenFiles(image: string): Promise<WriterFiles> {
  return withFiles(image, async (folder) => {
    const manifest = await readFile(join(folder, 'written', 'manifest'), 'utf8');
    if (!manifest.endsWith('\n')) throw new Error(`${image}: the last line of the manifest is torn`);
    const expected = new Map<string, string | undefined>();
    for (const line of manifest.trimEnd().split('\n')) {
      const [word, name, sum] = line.split(' ');
      if (name === undefined || (word !== 'begin' && word !== 'done')) throw new Error(`${image}: manifest: ${line}`);
      expected.set(name, word === 'done' ? sum : undefined);
    }
    let matched = 0;
    let inFlux = 0;
    for (const [name, sum] of expected) {
      if (sum === undefined) {
        inFlux += 1;
        continue;
      }
      const found = await sha256(join(folder, 'written', name));
      if (found !== sum) throw new Error(`${image}: written/${name} is ${found}, the guest had ${sum}`);
      matched += 1;
    }
    if (inFlux > 1) throw new Error(`${image}: ${inFlux} files were being written at once`);
    return { matched, inFlux };
  });
}

/** The number that `workload=counter` had written to this disk. */
export async function readCounter(image: string): Promise<number> {
  return withRaw(image, async (raw) => {
    const block = (await readFile(raw)).subarray(COUNTER_OFFSET, COUNTER_OFFSET + 4096).toString('latin1');
    const text = block.replaceAll('\0', '').trim();
    if (!/^\d*$/.test(text)) throw new Error(`${image}: no counter but ${JSON.stringify(text.slice(0, 40))}`);
    return Number(text);
  });
}

async function withRaw<T>(image: string, use: (raw: string) => Promise<T>): Promise<T> {
  return withTemporaryDir(async (dir) => {
    const raw = join(dir, 'raw');
    await run('qemu-img', ['convert', '-U', '-O', 'raw', image, raw]);
    return use(raw);
  });
}

async function checkRawFs(raw: string, image: string): Promise<void> {
  const { stdout: header } = await run('dumpe2fs', ['-h', raw]);
  const features = /^Filesystem features:(.*)$/m.exec(header)?.[1] ?? '';
  if (features.includes('needs_recovery')) throw new Error(`${image}: the journal would have to be replayed`);
  const check = await run('e2fsck', ['-fn', raw], { allowed: [0, 4] });
  if (check.exitCode !== 0) throw new Error(`${image}: e2fsck finds damage:\n${check.stdout}\n${check.stderr}`);
}

async function withFiles<T>(image: string, use: (folder: string) => Promise<T>): Promise<T> {
  return withRaw(image, (raw) =>
    withTemporaryDir(async (folder) => {
      const files = join(folder, 'files');
      await mkdir(files);
      // As a normal user debugfs complains that it cannot give the files their owner, and goes on.
      await run('debugfs', ['-R', `rdump / ${files}`, raw]);
      return use(files);
    }),
  );
}

async function sha256(file: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(file), hash);
  return hash.digest('hex');
}

import { readFile, rm } from 'node:fs/promises';
import { run } from '../lab/programs.js';

/**
 * The bytes that a disk must hold, as a value: changing it makes another one that shares what is the same. So a copy of
 * a disk at the instant of every point costs nothing.
 */
export interface DiskBytes {
  /** Bytes; a multiple of 512. */
  readonly size: number;
  /** Of CHUNK bytes each; the last one may reach beyond the end. */
  readonly chunks: readonly Buffer[];
}

export const CHUNK = 65536;

const ZEROS = Buffer.alloc(CHUNK);

export function zeroDisk(size: number): DiskBytes {
  return { size, chunks: Array.from({ length: Math.ceil(size / CHUNK) }, () => ZEROS) };
}

/** Pattern is one byte value; 0 also stands for write zeroes and discard. */
export function written(disk: DiskBytes, offset: number, length: number, pattern: number): DiskBytes {
  const chunks = [...disk.chunks];
  for (let at = offset; at < offset + length;) {
    const index = Math.floor(at / CHUNK);
    const end = Math.min(offset + length, (index + 1) * CHUNK);
    const chunk = Buffer.from(chunks[index]!);
    chunk.fill(pattern, at - index * CHUNK, end - index * CHUNK);
    chunks[index] = chunk;
    at = end;
  }
  return { ...disk, chunks };
}

/** What is new reads as zeros. */
export function grown(disk: DiskBytes, size: number): DiskBytes {
  return { size, chunks: [...disk.chunks, ...zeroDisk(size).chunks.slice(disk.chunks.length)] };
}

/** The bytes of an image, through its backing chain; `scratch` is a file that may be made for it. */
export async function readDisk(image: string, format: string, scratch: string): Promise<DiskBytes> {
  await run('qemu-img', ['convert', '-U', '-f', format, '-O', 'raw', image, scratch]);
  const raw = await readFile(scratch);
  await rm(scratch);
  const chunks: Buffer[] = [];
  for (let at = 0; at < raw.length; at += CHUNK) {
    const chunk = Buffer.alloc(CHUNK);
    raw.copy(chunk, 0, at, Math.min(raw.length, at + CHUNK));
    chunks.push(chunk.equals(ZEROS) ? ZEROS : chunk);
  }
  return { size: raw.length, chunks };
}

/** Where two disks differ, in words; undefined where they are the same bit for bit. */
export function difference(found: DiskBytes, expected: DiskBytes): string | undefined {
  if (found.size !== expected.size) return `it has ${found.size} bytes, not ${expected.size}`;
  const wrong = expected.chunks.flatMap((chunk, index) => (chunk.equals(found.chunks[index]!) ? [] : [index]));
  const [first] = wrong;
  if (first === undefined) return undefined;
  const [is, be] = [found.chunks[first]!, expected.chunks[first]!];
  const at = be.findIndex((byte, index) => byte !== is[index]);
  return (
    `${wrong.length} of ${expected.chunks.length} clusters differ, first at byte ${first * CHUNK + at}: ` +
    `it is 0x${is[at]!.toString(16)} and must be 0x${be[at]!.toString(16)}`
  );
}

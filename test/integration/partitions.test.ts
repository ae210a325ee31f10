import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, expect, it } from 'vitest';
import { readPartitions } from '../../src/core/partitions.js';

const dir = mkdtempSync(join(tmpdir(), 'partitions-'));
afterAll(() => rmSync(dir, { recursive: true }));
const MiB = 1024 * 1024;
const SIZE = 32 * MiB;

async function partitionsOf(bytes: Uint8Array) {
  const read = (offset: number, length: number) => {
    // As a file refuses it.
    if (!Number.isSafeInteger(offset)) throw new RangeError(`there is no place ${offset}`);
    return Promise.resolve(bytes.subarray(offset, offset + length));
  };
  return (await readPartitions(read, bytes.length)).partitions;
}

function tableOf(script: string, program: readonly string[] = ['sfdisk', '--quiet']): Uint8Array {
  const file = join(dir, 'table');
  writeFileSync(file, '');
  truncateSync(file, SIZE);
  const [name, ...args] = program;
  execFileSync(`/usr/sbin/${name}`, [...args, file], { input: script });
  return readFileSync(file);
}

it('reads GPT and MBR as sfdisk writes them, with gaps in the numbers and logical partitions', async () => {
  expect(await partitionsOf(tableOf('label: gpt\n1: start=2048,size=4096\n5: start=8192,size=2048\n'))).toEqual([
    { number: 1, offset: MiB, length: 2 * MiB },
    { number: 5, offset: 4 * MiB, length: MiB },
  ]);
  const dos =
    'label: dos\n1: start=2048,size=4096\n2: start=8192,size=20480,type=5\n5: start=10240,size=2048\n6: start=14336,size=2048\n';
  expect(await partitionsOf(tableOf(dos))).toEqual([
    { number: 1, offset: MiB, length: 2 * MiB },
    { number: 5, offset: 5 * MiB, length: MiB },
    { number: 6, offset: 7 * MiB, length: MiB },
  ]);
});

it('reads GPT with sectors of 4096 bytes', async () => {
  const gpt = tableOf('g\nn\n1\n256\n767\nn\n3\n1024\n1279\nw\n', ['fdisk', '--sector-size', '4096']);
  expect(await partitionsOf(gpt)).toEqual([
    { number: 1, offset: MiB, length: 2 * MiB },
    { number: 3, offset: 4 * MiB, length: MiB },
  ]);
  expect((await readPartitions((at, length) => Promise.resolve(gpt.subarray(at, at + length)), SIZE)).sector).toBe(
    4096,
  );
});

it('finds nothing where a table says that it is beyond the end of all numbers', async () => {
  const gpt = tableOf('label: gpt\nstart=2048,size=4096\n').slice(0, 4 * MiB);
  new DataView(gpt.buffer, gpt.byteOffset).setBigUint64(512 + 72, 0xffff_ffff_ffff_ffffn, true);
  expect(await partitionsOf(gpt)).toEqual([]);
});

it('never leads beyond the disk, whatever stands in a table', async () => {
  const gpt = tableOf('label: gpt\nstart=2048,size=4096\n');
  const dos = tableOf('label: dos\nstart=2048,size=4096\nstart=8192,size=20480,type=5\nstart=10240,size=2048\n');
  const change = fc.record({ at: fc.oneof(fc.nat(2047), fc.nat(SIZE - 1)), byte: fc.nat(255) });
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(gpt, dos),
      fc.array(change, { minLength: 1, maxLength: 40 }),
      async (table, changes) => {
        const bytes = table.slice(0, 16 * MiB);
        for (const { at, byte } of changes) if (at < bytes.length) bytes[at] = byte;
        for (const { offset, length } of await partitionsOf(bytes))
          expect(offset + length).toBeLessThanOrEqual(bytes.length);
      },
    ),
    { numRuns: 50 },
  );
});

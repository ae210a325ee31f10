import { open, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { ByteRange } from '../../src/core/pieces.js';
import { openPoint } from '../../src/repository/open-point.js';
import { proverOf, type ReadProver } from '../../src/repository/prove-reads.js';
import { MiB } from '../support/builders.js';
import type { Lab } from '../support/chains.js';
import { run } from '../support/lab/programs.js';
import { VARIED_FILES, VARIED_SIZE, variedChain } from '../support/varied-chain.js';

/** What is proved of a chain by what was read of it, against what QEMU reads from the same files. */
const UNIT = 64 * 1024;
const { signal } = new AbortController();

function chain(): Promise<Lab> {
  return variedChain(['3M 5M', '17M 5M']);
}

async function newProver(lab: Lab): Promise<ReadProver> {
  const { disks } = await openPoint(lab.target, {}, { look: 'catalog' });
  return proverOf(disks[0]!);
}

function units(): readonly ByteRange[] {
  return Array.from({ length: (VARIED_SIZE * MiB) / UNIT }, (_, unit) => ({
    start: unit * UNIT,
    end: (unit + 1) * UNIT,
  }));
}

/** Another bit, and the same again: it is undone by a second call. */
async function flip(path: string, offset: number): Promise<void> {
  const file = await open(path, 'r+');
  const { buffer } = await file.read(Buffer.alloc(1), 0, 1, offset);
  await file.write(Buffer.from([buffer[0]! ^ 1]), 0, 1, offset);
  await file.close();
}

/** What QEMU makes of the chain; undefined where it finds the damage itself. */
async function readByQemu(lab: Lab): Promise<Buffer | undefined> {
  const raw = join(lab.root, 'read.raw');
  const convert = ['convert', '-O', 'raw', join(lab.folder('vda'), VARIED_FILES[2]), raw];
  const { exitCode } = await run('qemu-img', convert, { allowed: [0, 1] });
  return exitCode === 0 ? readFile(raw) : undefined;
}

describe('what is proved of what was read', () => {
  it('is all of it, and right where nothing is damaged', async () => {
    const lab = await chain();
    const prover = await newProver(lab);
    expect(await prover.prove({ data: units(), tables: [] }, signal)).toEqual([]);
  });

  it('never misses a bit that changes what is read', async () => {
    const lab = await chain();
    const right = await readFile(lab.flat('vda', VARIED_FILES[2]));
    let [wrong, found] = [0, 0];
    for (const file of VARIED_FILES) {
      const path = join(lab.folder('vda'), file);
      const { size } = await stat(path);
      const l1 = Number((await readFile(path)).readBigUInt64BE(40));
      const l2 = Number((await readFile(path)).readBigUInt64BE(l1) & 0x00ffffffffffff00n);
      // Anywhere, in the first tables (also those bits that make other clusters of the same file of it), and in the header.
      const random = [Math.floor(Math.random() * size), Math.floor(Math.random() * size)];
      const tables = [0, 16, 48, 64, 144, 156, 272].map((entry) => l2 + entry * 8 + 5);
      for (const offset of [...random, ...tables, l2 + 48 * 8, l2 + 272 * 8 + 7, l1 + 5]) {
        await flip(path, offset);
        const read = await readByQemu(lab);
        for (const range of read ? units() : []) {
          if (read?.subarray(range.start, range.end).equals(right.subarray(range.start, range.end))) continue;
          wrong += 1;
          const findings = await (await newProver(lab)).prove({ data: [range], tables: [] }, signal);
          expect(findings, `${file} at ${offset}, read at ${range.start}`).toMatchObject([{ level: 'error', file }]);
          found += 1;
          break;
        }
        await flip(path, offset);
      }
    }
    expect(found).toBe(wrong);
    expect(wrong).toBeGreaterThan(5);
  });

  it('is no more than the pieces that were read: damage elsewhere is not found, but by whoever reads it', async () => {
    const lab = await chain();
    const path = join(lab.folder('vda'), VARIED_FILES[0]);
    const at = (await readFile(path)).indexOf(
      (await readFile(lab.flat('vda', VARIED_FILES[0]))).subarray(10 * MiB, 10 * MiB + 64),
    );
    await flip(path, at);
    const prover = await newProver(lab);
    const [elsewhere, there] = [
      { start: MiB, end: 2 * MiB },
      { start: 10 * MiB, end: 10 * MiB + 1 },
    ];
    expect(await prover.prove({ data: [elsewhere], tables: [] }, signal)).toEqual([]);
    // Who asked where holes are got no byte of it.
    expect(await prover.prove({ data: [], tables: [there] }, signal)).toEqual([]);
    const [finding, more] = await prover.prove({ data: [there], tables: [] }, signal);
    expect([finding?.code, finding?.file, more]).toEqual(['damaged', VARIED_FILES[0], undefined]);
    expect(await prover.prove({ data: [there], tables: [] }, signal)).toEqual([]);
  });

  it('takes a whole file where there is no list of its pieces', async () => {
    const lab = await chain();
    const path = join(lab.folder('vda'), VARIED_FILES[0]);
    await run('rm', [`${path}.pieces`]);
    await flip(path, (await stat(path)).size - 1);
    const prover = await newProver(lab);
    // The newest file has that one, and the one below is not asked.
    expect(await prover.prove({ data: [{ start: 17 * MiB, end: 18 * MiB }], tables: [] }, signal)).toEqual([]);
    expect(await prover.prove({ data: [{ start: 0, end: 1 }], tables: [] }, signal)).toMatchObject([
      { code: 'damaged', file: VARIED_FILES[0] },
    ]);
  });
});

/**
 * Images pulled over NBD, against the disk that was exported, bit by bit; the mistakes that would go unnoticed without
 * that; and what is left behind when something dies in the middle.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { pullFull, pullIncrement } from '../../src/backends/methods/pull-image.js';
import { type Range, rangesOfFull, rangesOfIncrement } from '../../src/core/extents.js';
import type { NbdSource } from '../../src/core/nbd-address.js';
import { takesDirectIo } from '../../src/host/direct-io.js';
import { NbdClient } from '../../src/nbd/client.js';
import { NbdConnectionLost, NbdServerError } from '../../src/nbd/errors.js';
import { ALLOCATION, dirtyBitmapContext, readExtents } from '../../src/nbd/meta-contexts.js';
import { pull, type PullSink, sinkOf } from '../../src/nbd/pull.js';
import { startQemuNbd } from '../../src/qemu-tools/qemu-nbd.js';
import { createImage } from '../../src/host/empty-image.js';
import { check } from '../../src/qemu-tools/steps.js';
import { built } from '../support/built.js';
import { type Extents, FakeNbdServer } from '../support/fake-nbd-server.js';
import { run } from '../support/lab/programs.js';
import { mountSmall, mountWithoutDirectIo } from '../support/mounts.js';
import { patient } from '../support/patience.js';
import { afterTest, labDir } from '../support/scenario.js';

const KiB = 1024;
const MiB = 1024 * KiB;
const BITMAP = 'since';
let dir: string;
const temporary = process.env.TMPDIR;

beforeEach(async () => {
  dir = await labDir();
  // Where qemu-nbd's folders are made, so that what is left of them is seen.
  process.env.TMPDIR = join(dir, 'tmp');
  await mkdir(process.env.TMPDIR);
});
afterEach(async () => {
  const left = await readdir(join(dir, 'tmp'));
  if (temporary === undefined) delete process.env.TMPDIR;
  else process.env.TMPDIR = temporary;
  expect(left).toEqual([]);
});

/** A disk with a bitmap, a FULL of it pulled before it was changed, and an empty increment linked to that. */
async function makeDisk(size: number, before: readonly string[], after: readonly string[]): Promise<void> {
  const [disk, full, inc] = [path('disk'), path('full'), path('inc')];
  await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', 'cluster_size=64k', disk, String(size)]);
  await guestWrites(before);
  await run('qemu-img', ['bitmap', '--add', '-g', '65536', disk, BITMAP]);
  await createImage(full, { size });
  await served({}, (source) => pullFull(source, full));
  await guestWrites(after);
  await createImage(inc, { size, backing: 'full.qcow2' });
}

/** Pretended programs do not look at it. */
const NO_NODE = { driver: 'null-co' };
const path = (name: string): string => join(dir, `${name}.qcow2`);
const qcow2 = (name: string) => ({ driver: 'qcow2', file: { driver: 'file', filename: path(name) } });

async function guestWrites(commands: readonly string[]): Promise<void> {
  if (commands.length === 0) return;
  await run('qemu-io', ['-d', 'unmap', '-f', 'qcow2', ...commands.flatMap((each) => ['-c', each]), path('disk')]);
}

/** The disk over NBD while `use` runs. */
async function served<T>(options: { bitmap?: string }, use: (source: NbdSource) => Promise<T>): Promise<T> {
  const server = await startQemuNbd({ node: qcow2('disk'), readOnly: true, ...options });
  try {
    return await use({ address: { kind: 'unix', path: server.socketPath }, exportName: '' });
  } finally {
    await server.kill();
  }
}

const pullInc = (options = {}): Promise<unknown> =>
  served({ bitmap: BITMAP }, (source) => pullIncrement({ source, bitmap: BITMAP, target: path('inc') }, options));

async function isSame(name: string): Promise<boolean> {
  const { exitCode } = await run('qemu-img', ['compare', '-p', path(name), path('disk')], { allowed: [0, 1] });
  return exitCode === 0;
}

interface Mapped {
  readonly start: number;
  readonly length: number;
  readonly depth: number;
  readonly zero: boolean;
  readonly data: boolean;
}

/** What the increment itself holds. */
async function ownExtents(): Promise<readonly Mapped[]> {
  const { stdout } = await run('qemu-img', ['map', '--output=json', path('inc')]);
  return (JSON.parse(stdout) as Mapped[]).filter(({ depth }) => depth === 0);
}

/** A pull with something done wrong: other ranges, or another way to write zeros. */
async function pullWrong(
  wrong: (ranges: readonly Range[], size: number) => readonly Range[],
  zero?: PullSink['zero'],
): Promise<void> {
  await served({ bitmap: BITMAP }, async ({ address }) => {
    const from = await NbdClient.connect(address, { contexts: [ALLOCATION, dirtyBitmapContext(BITMAP)] });
    const server = await startQemuNbd({
      node: { driver: 'qcow2', backing: null, file: { driver: 'file', filename: path('inc') } },
    });
    const into = await NbdClient.connect({ kind: 'unix', path: server.socketPath });
    const { zero: zeros, dirty = [] } = await readExtents(from, BITMAP);
    const shape = { size: from.export.size, clusterSize: 64 * KiB };
    const sink = sinkOf(into);
    await pull(from, wrong(rangesOfIncrement({ dirty, zero: zeros }, shape), shape.size), {
      ...sink,
      zero: zero ?? sink.zero,
    });
    await into.close();
    await server.ended();
    await from.close();
  });
}

const BEFORE = ['write -P 1 0 5M', 'write -P 2 8M 1M'];
const AFTER = [
  'write -P 9 70000 100', // a part of a cluster: the rest of it is the parent's
  'write -z 1M 1M', // zeroed
  'discard 3M 200000', // discarded, not at the edge of a cluster
  'write -P 0 4M 128k', // zeros that were written
  'write -P 4 6M 512', // new in a cluster that nobody had
];

describe('a rate limit', () => {
  it.each([4, 100 * KiB])('of %i bytes holds, without a warning of Node', async (rateLimit) => {
    const warnings: string[] = [];
    const onWarning = ({ name }: Error): void => void warnings.push(name);
    process.on('warning', onWarning);
    const end = new AbortController();
    let read = 0;
    const source = { read: () => Promise.resolve(void (read += 1)) };
    const nowhere = { write: () => Promise.resolve(), zero: () => Promise.resolve(), flush: () => Promise.resolve() };
    const ranges = [{ kind: 'data' as const, offset: 0, length: 64 * MiB }];
    const pulling = pull(source, ranges, nowhere, { rateLimit, signal: AbortSignal.any([end.signal]) });
    await sleep(300);
    end.abort();
    await expect(pulling).rejects.toThrow();
    process.off('warning', onWarning);
    expect(read).toBe(1);
    expect(warnings).toEqual([]);
  });
});

describe('a FULL and an increment', () => {
  it.each([
    ['a round size', 12 * MiB, []],
    ['a last cluster of one sector', 12 * MiB + 512, ['write -P 7 12M 512']],
    ['a last cluster that is zeroed', 12 * MiB + 3 * 512, ['write -z 12M 1536', 'write -P 8 11M 1M']],
  ])('are the disk, with %s', async (_name, size, more) => {
    await makeDisk(
      size,
      [...BEFORE, ...(size > 12 * MiB ? [`write -P 3 12M ${size - 12 * MiB}`] : [])],
      [...AFTER, ...more],
    );
    expect(await isSame('full')).toBe(false);
    const full = await readFile(path('full'));
    const progress: number[] = [];
    const total = await pullInc({ onProgress: ({ done }: { done: number }) => progress.push(done) });
    expect(await isSame('inc')).toBe(true);
    expect(await check(path('inc'))).toMatchObject({ corruptions: 0, leaks: 0, checkErrors: 0, leaksFixed: 0 });
    expect(progress.at(-1)).toBe((total as { total: number }).total);
    // The parent is as it was, and still the parent.
    expect((await readFile(path('full'))).equals(full)).toBe(true);
    const { stdout } = await run('qemu-img', ['info', '--output=json', path('inc')]);
    expect(JSON.parse(stdout)).toMatchObject({ 'backing-filename': 'full.qcow2' });
  });

  it('take the space of the data alone; zeros are told, and what is clean is left to the parent', async () => {
    await makeDisk(12 * MiB, BEFORE, AFTER);
    const { stdout } = await run('qemu-img', ['map', '--output=json', path('full')]);
    const data = (JSON.parse(stdout) as Mapped[]).filter((extent) => extent.data);
    expect(data.map(({ start, length }) => [start, length])).toEqual([[0, 5 * MiB], [8 * MiB, MiB]]); // prettier-ignore
    await pullInc();
    expect((await ownExtents()).map(({ start, length, zero }) => [start, length, zero])).toEqual([
      [64 * KiB, 64 * KiB, false],
      [MiB, MiB, true],
      // The discard's last cluster is dirty too: zero in part, so data.
      [3 * MiB, 192 * KiB, true],
      [3 * MiB + 192 * KiB, 64 * KiB, false],
      [4 * MiB, 128 * KiB, true],
      [6 * MiB, 64 * KiB, false],
    ]);
  });

  it('hold for any writes, zeroes and discards', async () => {
    const size = 3 * MiB + 5 * 512;
    const change = fc
      .tuple(
        fc.constantFrom('write -P 5', 'write -P 0', 'write -z', 'write -z -u', 'discard'),
        fc.integer({ min: 0, max: size / 512 - 1 }),
        fc.constantFrom(512, 4096, 64 * KiB, 192 * KiB, 512 * KiB),
      )
      .map(([verb, sector, length]) => `${verb} ${sector * 512} ${Math.min(length, size - sector * 512)}`);
    const changes = fc.array(change, { minLength: 1, maxLength: 12 });
    await fc.assert(
      fc.asyncProperty(changes, changes, async (before, after) => {
        for (const name of ['disk', 'full', 'inc']) await run('rm', ['-f', path(name)]);
        await makeDisk(size, before, after);
        await pullInc();
        expect(await isSame('inc')).toBe(true);
      }),
      { numRuns: 12 },
    );
  });

  it('hold compressed and held back, too', async () => {
    await makeDisk(12 * MiB, BEFORE, AFTER);
    const begun = performance.now();
    await pullInc({ compress: true, rateLimit: 2 * MiB });
    // 320 KiB of data at 2 MiB/s; the first piece goes at once.
    expect(performance.now() - begun).toBeGreaterThan(60);
    expect(await isSame('inc')).toBe(true);
    expect(await check(path('inc'))).toMatchObject({ corruptions: 0, leaks: 0 });
    await createImage(path('small'), { size: 12 * MiB });
    await served({}, (source) => pullFull(source, path('small'), { compress: true }));
    const { stdout } = await run('qemu-img', ['map', '--output=json', path('small')]);
    // Compressed data is at no offset of the file that could be told.
    expect(stdout).not.toContain('"offset"');
  });

  it('hold where they are to be compressed and no cluster divides the disk', async () => {
    const size = 12 * MiB + 512;
    await makeDisk(size, BEFORE, [...AFTER, 'write -P 7 12M 512']);
    await pullInc({ compress: true });
    expect(await isSame('inc')).toBe(true);
    await createImage(path('small'), { size });
    await served({}, (source) => pullFull(source, path('small'), { compress: true }));
    expect(await isSame('small')).toBe(true);
  });

  it('hold where the file system of the images takes no direct I/O, too', async () => {
    const whole = dir;
    dir = join(whole, 'ram');
    try {
      await mountWithoutDirectIo(dir);
      await makeDisk(12 * MiB, BEFORE, AFTER);
      await expect(takesDirectIo(path('inc'))).resolves.toBe(false);
      await pullInc();
      await expect(isSame('inc')).resolves.toBe(true);
      await expect(isSame('full')).resolves.toBe(false);
    } finally {
      dir = whole;
    }
  });

  it('hold for a disk whose size no sector divides', async () => {
    const size = 3 * MiB + 77;
    const disk = Buffer.alloc(size, 'old');
    const fullOf: Extents = [[size, 0]];
    const fake = await FakeNbdServer.start(
      { disk, contexts: { [ALLOCATION]: fullOf, [dirtyBitmapContext('b')]: [[3 * MiB, 0], [77, 1]] } }, // prettier-ignore
      join(dir, 'fake.sock'),
    );
    afterTest(() => fake.stop());
    const source: NbdSource = { address: fake.address, exportName: '' };
    const rounded = 3 * MiB + 512;
    await createImage(path('full'), { size: rounded });
    await pullFull(source, path('full'));
    disk.fill('new', 3 * MiB);
    await createImage(path('inc'), { size: rounded, backing: 'full.qcow2' });
    await pullIncrement({ source, bitmap: 'b', target: path('inc') });
    const raw = join(dir, 'raw');
    await run('qemu-img', ['convert', '-O', 'raw', path('inc'), raw]);
    const found = await readFile(raw);
    expect(found.subarray(0, size).equals(disk)).toBe(true);
    expect(found.subarray(size).every((byte) => byte === 0)).toBe(true);
    await createImage(path('wrong'), { size: 4 * MiB });
    await expect(pullIncrement({ source, bitmap: 'b', target: path('wrong') })).rejects.toThrow(/has 4194304 bytes/);
  });

  it('may both be pulled by the client', async () => {
    await makeDisk(12 * MiB + 512, BEFORE, AFTER);
    await pullWrong(() => [{ offset: 0, length: 12 * MiB + 512, kind: 'data' }]);
    expect(await isSame('inc')).toBe(true);
    const { zero } = await served({}, async ({ address }) => {
      const client = await NbdClient.connect(address, { contexts: [ALLOCATION] });
      const extents = await readExtents(client);
      await client.close();
      return extents;
    });
    const shape = { size: 12 * MiB + 512, clusterSize: 64 * KiB };
    await createImage(path('inc'), { size: shape.size });
    await pullWrong(() => rangesOfFull(zero, shape));
    expect(await isSame('inc')).toBe(true);
  });
});

describe('what would go unnoticed without a comparison of bytes', () => {
  it('is the FULL alone, zeros left out, trimmed zeros, and dirty parts of clusters', async () => {
    await makeDisk(12 * MiB, BEFORE, AFTER);
    expect(await isSame('full')).toBe(false);

    await pullWrong((ranges) => ranges.filter(({ kind }) => kind === 'data'));
    expect(await isSame('inc')).toBe(false);

    const again = (): Promise<void> => createImage(path('inc'), { size: 12 * MiB, backing: 'full.qcow2' });
    await again();
    const trims: string[] = [];
    await pullWrong(
      (ranges) => ranges,
      (offset, length) => Promise.resolve(void trims.push(`discard ${offset} ${length}`)),
    );
    expect(trims.length).toBeGreaterThan(0);
    const node = { driver: 'qcow2', backing: null, discard: 'unmap', file: { driver: 'file', filename: path('inc') } };
    await run('qemu-io', ['-d', 'unmap', ...trims.flatMap((each) => ['-c', each]), `json:${JSON.stringify(node)}`]);
    expect(await isSame('inc')).toBe(false);

    await again();
    // The very sectors that the guest wrote, without the clusters around them.
    await pullWrong((ranges) => [
      ...ranges.filter(({ offset }) => offset !== 64 * KiB),
      { offset: 69_632, length: 512, kind: 'data' },
    ]);
    expect(await isSame('inc')).toBe(false);

    await again();
    await pullWrong((ranges) => ranges);
    expect(await isSame('inc')).toBe(true);
  });
});

describe('a pull that dies', () => {
  const size = 8 * MiB;

  async function fakeSource(onRead: (count: number) => 'hang' | 'hang-up' | undefined): Promise<NbdSource> {
    let reads = 0;
    const fake = await FakeNbdServer.start(
      {
        disk: Buffer.alloc(size, 'x'),
        contexts: { [ALLOCATION]: [[size, 0]], [dirtyBitmapContext('b')]: [[size, 1]] },
        onRequest: ({ command }) => (command === 0 ? onRead((reads += 1)) : undefined),
      },
      join(dir, 'fake.sock'),
    );
    afterTest(() => fake.stop());
    return { address: fake.address, exportName: '' };
  }

  /** Nobody has the image open any more: qemu-img gets its lock. */
  async function expectReleased(): Promise<void> {
    await run('qemu-io', ['-f', 'qcow2', '-c', 'write 0 512', path('inc')]);
  }

  it('fails with the connection that was cut, and lets the image go', async () => {
    await createImage(path('inc'), { size });
    const source = await fakeSource((count) => (count === 5 ? 'hang-up' : undefined));
    const pulling = pullIncrement({ source, bitmap: 'b', target: path('inc') });
    await expect(pulling).rejects.toThrow(NbdConnectionLost);
    await expectReleased();
  });

  it('fails in the words of the qemu-nbd that died', async () => {
    await createImage(path('inc'), { size });
    const source = await fakeSource((count) => {
      if (count === 8) {
        const [folder] = readdirSync(join(dir, 'tmp'));
        process.kill(Number(readFileSync(join(dir, 'tmp', folder!, 'pid'), 'utf8')), 'SIGKILL');
      }
      return undefined;
    });
    const pulling = pullIncrement({ source, bitmap: 'b', target: path('inc') });
    await expect(pulling).rejects.toThrow('qemu-nbd failed: it ended with SIGKILL');
    await expectReleased();
  });

  it('ends by its signal, and lets the image go', async () => {
    await createImage(path('inc'), { size });
    const end = new AbortController();
    const source = await fakeSource((count) => {
      if (count === 8) end.abort(new Error('enough'));
      return count > 4 ? 'hang' : undefined;
    });
    const pulling = pullIncrement({ source, bitmap: 'b', target: path('inc') }, { signal: end.signal });
    await expect(pulling).rejects.toThrow('enough');
    await expectReleased();
    await expect(pullIncrement({ source, bitmap: 'b', target: path('inc') }, { signal: end.signal })).rejects.toThrow('enough'); // prettier-ignore
  });

  it('ends at the deadline of a source that hangs', async () => {
    await createImage(path('inc'), { size });
    const source = await fakeSource((count) => (count > 2 ? 'hang' : undefined));
    const pulling = pullIncrement({ source, bitmap: 'b', target: path('inc') }, { deadlines: { requestMs: 700 } });
    await expect(pulling).rejects.toThrow(/did not answer within 0.7 s/);
    await expectReleased();
  });

  it('takes CPU time as long as it gets on, however slowly, and none while its source hangs', async () => {
    let hangs = false;
    const source = await fakeSource(() => (hangs ? 'hang' : undefined));
    /** The CPU time of a FULL, second by second, for six seconds. */
    const workOf = async (name: string): Promise<readonly number[]> => {
      await createImage(path(name), { size });
      const end = new AbortController();
      const seen: number[] = [];
      const onWork = (cpuNs: number): void => {
        if (seen.push(cpuNs) === 6) end.abort(new Error('seen'));
      };
      const options = { signal: end.signal, onWork, rateLimit: MiB / 2 };
      await expect(pullFull(source, path(name), options)).rejects.toThrow('seen');
      return seen;
    };
    const slow = await workOf('slow');
    expect(slow.at(-1)).toBeGreaterThan(slow[1]!);
    hangs = true;
    const hung = await workOf('hung');
    expect(hung.at(-1)).toBe(hung.at(-2));
  });

  it('fails with ENOSPC where the target is full', async () => {
    const small = join(dir, 'small');
    const target = await mountSmall(small, 4 * MiB);
    await createImage(join(small, 'inc.qcow2'), { size });
    const source = await fakeSource(() => undefined);
    const pulling = pullIncrement({ source, bitmap: 'b', target: join(small, 'inc.qcow2') });
    await expect(pulling).rejects.toThrow(NbdServerError);
    await expect(pulling).rejects.toMatchObject({ errno: 'ENOSPC' });
    await expect(pullFull(source, join(small, 'inc.qcow2'))).rejects.toThrow(/No space left/);
    await target.fillBut(0);
  });

  it('refuses a bitmap that is not there', async () => {
    await createImage(path('inc'), { size });
    const source = await fakeSource(() => undefined);
    await expect(pullIncrement({ source, bitmap: 'other', target: path('inc') })).rejects.toMatchObject({
      refusal: 'context',
    });
  });
});

describe('qemu-nbd', () => {
  it('fails in its own words, and keeps no folder', async () => {
    await expect(startQemuNbd({ node: qcow2('none') })).rejects.toThrow(/qemu-nbd failed: .*none\.qcow2.*No such file/);
    await writeFile(path('bad'), 'not an image');
    await expect(startQemuNbd({ node: qcow2('bad') })).rejects.toThrow(/qemu-nbd failed: .*not in qcow2 format/);
    await createImage(path('inc'), { size: MiB });
    await expect(startQemuNbd({ node: qcow2('inc'), bitmap: 'none' })).rejects.toThrow(/none/);
  });

  it('says how to install it, and ends at its deadline when it does not serve', async () => {
    const before = process.env.PATH;
    const bin = join(dir, 'bin');
    await mkdir(bin);
    try {
      process.env.PATH = bin;
      await expect(startQemuNbd({ node: NO_NODE })).rejects.toMatchObject({
        hint: expect.stringContaining('apt install') as unknown,
      });
      await writeFile(join(bin, 'qemu-nbd'), '#!/bin/sh\nexec sleep 60\n', { mode: 0o755 });
      process.env.PATH = `${bin}:${before}`;
      await expect(startQemuNbd({ node: NO_NODE, startMs: 300 })).rejects.toThrow(
        /did not begin to serve within 0.3 s/,
      );
      const end = new AbortController();
      const starting = expect(startQemuNbd({ node: NO_NODE, signal: end.signal })).rejects.toThrow('enough');
      end.abort(new Error('enough'));
      await starting;
    } finally {
      process.env.PATH = before;
    }
  });

  it('has a socket that nobody else can reach, and fails when it is killed', async () => {
    await createImage(path('inc'), { size: MiB });
    const server = await startQemuNbd({ node: qcow2('inc') });
    const { stdout } = await run('stat', ['-c', '%a', join(server.socketPath, '..')]);
    expect(stdout).toBe('700');
    const client = await NbdClient.connect({ kind: 'unix', path: server.socketPath });
    process.kill(server.pid, 'SIGKILL');
    await expect(server.ended()).rejects.toThrow('qemu-nbd failed: it ended with SIGKILL');
    expect(await client.ended).toBeInstanceOf(NbdConnectionLost);
    await server.kill();
  });

  it('ends with the process that started it, also before any client came', async () => {
    await createImage(path('inc'), { size: MiB });
    const program = `
      const { startQemuNbd } = await import(${JSON.stringify(await built('qemu-tools/qemu-nbd.js'))});
      const { pid } = await startQemuNbd({ node: ${JSON.stringify(qcow2('inc'))}, folder: ${JSON.stringify(dir)} });
      console.log(pid);`;
    const parent = spawn(process.execPath, ['--input-type=module', '-e', program], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const [line] = (await once(createInterface({ input: parent.stdout }), 'line')) as [string];
    expect(existsSync(`/proc/${line}`)).toBe(true);
    parent.kill('SIGKILL');
    await expect.poll(() => existsSync(`/proc/${line}`), { timeout: patient(20_000) }).toBe(false);
  });
});

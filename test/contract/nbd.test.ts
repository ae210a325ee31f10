/**
 * What the NBD client relies on, asked of the fake server and of the real ones; then what only nbdkit's filters or a
 * lying fake can show: each ends in an error of its own type, never in a wrong byte, never in waiting for ever.
 */
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import type { NbdAddress } from '../../src/core/nbd-address.js';
import { NbdClient, type NbdConnectOptions } from '../../src/nbd/client.js';
import {
  NbdConnectionLost,
  NbdDeadline,
  NbdInterrupted,
  NbdProtocolViolation,
  NbdRefused,
  NbdRequestError,
  NbdServerError,
  NbdUnreachable,
} from '../../src/nbd/errors.js';
import { ALLOCATION, dirtyBitmapContext, readExtents } from '../../src/nbd/meta-contexts.js';
import { pull, sinkOf } from '../../src/nbd/pull.js';
import { NbdCommand } from '../../src/nbd/wire.js';
import { type Extents, type FakeNbdOptions, FakeNbdServer, type Stage } from '../support/fake-nbd-server.js';
import { run } from '../support/lab/programs.js';
import {
  chunk,
  dataChunk,
  doneChunk,
  errorChunk,
  exportInfo,
  holeChunk,
  optionReply,
  simpleReply,
  statusChunk,
  u32,
  u64,
} from '../support/nbd-bytes.js';
import { type RealServer, startNbdkit, startPlainQemuNbd } from '../support/nbd-servers.js';
import { scratchFolders } from '../support/scratch-folder.js';

const makeFolder = scratchFolders();
const KiB = 1024;
const MiB = 1024 * KiB;

/** Undone in reverse order after each test, whatever became of it. */
const cleanUps: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const undo of cleanUps.splice(0).reverse()) await undo();
});

async function connect(address: NbdAddress, options: NbdConnectOptions = {}): Promise<NbdClient> {
  const client = await NbdClient.connect(address, options);
  cleanUps.push(() => client.close());
  return client;
}

async function startFake(options: FakeNbdOptions): Promise<FakeNbdServer> {
  const fake = await FakeNbdServer.start(options, join(await makeFolder(), 'fake.sock'));
  cleanUps.push(() => fake.stop());
  return fake;
}

async function real(server: Promise<RealServer>): Promise<RealServer> {
  const started = await server;
  cleanUps.push(started.stop);
  return started;
}

/** Data, a hole of 1 MiB in the middle, and data again. */
function pattern(size: number): Buffer {
  const bytes = Buffer.alloc(size);
  for (let at = 0; at + 4 <= size; at += 4) bytes.writeUInt32LE((at * 2654435761) >>> 0, at);
  return bytes.fill(0, MiB, 2 * MiB);
}

const allocationOf = (size: number): Extents => [[MiB, 0], [MiB, 3], [size - 2 * MiB, 0]]; // prettier-ignore

async function rawFile(content: Buffer): Promise<{ folder: string; file: string }> {
  const folder = await makeFolder();
  const file = join(folder, 'disk.raw');
  const handle = await open(file, 'w');
  try {
    await handle.write(content, 0, MiB, 0);
    await handle.write(content, 2 * MiB, content.length - 2 * MiB, 2 * MiB);
  } finally {
    await handle.close();
  }
  return { folder, file };
}

interface Peer {
  readonly size: number;
  readonly start: (content: Buffer) => Promise<NbdAddress>;
}

const peers: Record<string, Peer> = {
  'the fake server': {
    size: 3 * MiB + 1,
    start: async (disk) => (await startFake({ disk, contexts: { [ALLOCATION]: allocationOf(disk.length) } })).address,
  },
  'the fake server on TCP': {
    size: 3 * MiB,
    start: async (disk) =>
      (await startFake({ disk, tcp: true, contexts: { [ALLOCATION]: allocationOf(disk.length) } })).address,
  },
  'qemu-nbd': {
    size: 3 * MiB + 512,
    start: async (content) => {
      const { folder, file } = await rawFile(content);
      return (await real(startPlainQemuNbd(folder, ['-f', 'raw', file]))).address;
    },
  },
  'qemu-nbd on TCP': {
    size: 3 * MiB,
    start: async (content) => {
      const { folder, file } = await rawFile(content);
      return (await real(startPlainQemuNbd(folder, ['-f', 'raw', file], { tcp: true }))).address;
    },
  },
  nbdkit: {
    size: 3 * MiB + 1,
    start: async (content) => {
      const { folder, file } = await rawFile(content);
      return (await real(startNbdkit(folder, ['file', file]))).address;
    },
  },
};

describe.each(Object.entries(peers))('%s', (_name, { size, start }) => {
  const content = pattern(size);
  const opened = async (): Promise<NbdClient> => connect(await start(Buffer.from(content)), { contexts: [ALLOCATION] });

  it('gives every byte to many requests at once', async () => {
    const client = await opened();
    expect(client.export).toMatchObject({ size, readOnly: false, canFlush: true, canWriteZeroes: true });
    const whole = Buffer.alloc(size, 0xee);
    const step = 100_000 - (100_000 % client.export.minBlock);
    const offsets = Array.from({ length: Math.ceil(size / step) }, (_, index) => index * step).reverse();
    await Promise.all(offsets.map((offset) => client.read(offset, whole.subarray(offset, offset + step))));
    expect(whole.equals(content)).toBe(true);
  });

  it('takes writes and zeroes, flushes them, and shows them to the next client', async () => {
    const address = await start(Buffer.from(content));
    const first = await connect(address);
    const expected = Buffer.from(content);
    const data = Buffer.alloc(64 * KiB, 'new');
    await Promise.all([
      first.write(MiB, data),
      first.writeZeroes(2 * MiB, 4096),
      first.write(0, data.subarray(0, 512)),
    ]);
    await first.flush();
    await first.close();
    expect(await first.ended).toBeUndefined();
    await expect(first.read(0, data)).rejects.toThrow(NbdConnectionLost);
    data.copy(expected, MiB);
    data.copy(expected, 0, 0, 512);
    expected.fill(0, 2 * MiB, 2 * MiB + 4096);
    const second = await connect(address);
    const found = Buffer.alloc(MiB);
    for (let offset = 0; offset < size; offset += MiB) {
      const part = found.subarray(0, Math.min(MiB, size - offset));
      await second.read(offset, part);
      expect(part.equals(expected.subarray(offset, offset + part.length))).toBe(true);
    }
  });

  it('tells as zeros only what reads as zeros, and the hole as a whole', async () => {
    const { zero, dirty } = await readExtents(await opened());
    expect(dirty).toBeUndefined();
    expect(zero).toEqual([{ offset: MiB, length: MiB }]);
  });

  it('refuses a context or an export that is not there, by name', async () => {
    const address = await start(Buffer.from(content));
    const refusal = await NbdClient.connect(address, { contexts: [ALLOCATION, dirtyBitmapContext('none')] }).catch(
      (error: unknown) => error,
    );
    expect(refusal).toBeInstanceOf(NbdRefused);
    expect(refusal).toMatchObject({ refusal: 'context' });
    expect((refusal as Error).message).toContain("'qemu:dirty-bitmap:none'");
  });

  it('is not asked for what its limits do not allow', async () => {
    const client = await opened();
    const block = Buffer.alloc(512);
    await expect(client.read(size - 511, block)).rejects.toThrow(NbdRequestError);
    await expect(client.read(0, Buffer.alloc(0))).rejects.toThrow(NbdRequestError);
    await expect(client.read(0.5, block)).rejects.toThrow(NbdRequestError);
    await expect(client.write(0, Buffer.alloc(33 * MiB))).rejects.toThrow(NbdRequestError);
    await expect(client.writeZeroes(0, 2 ** 32)).rejects.toThrow(NbdRequestError);
    await client.read(0, block);
  });
});

describe('qemu-nbd with a dirty bitmap', () => {
  it('tells what was written, beside what reads as zeros', async () => {
    const folder = await makeFolder();
    const image = join(folder, 'a.qcow2');
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', image, '8M']);
    await run('qemu-io', ['-f', 'qcow2', '-c', 'write 0 4M', image]);
    await run('qemu-img', ['bitmap', '--add', image, 'since']);
    await run('qemu-io', [
      '-f',
      'qcow2',
      '-c',
      'write 1M 64k',
      '-c',
      'write -z 2M 64k',
      '-c',
      'write 8323072 64k',
      image,
    ]);
    const args = ['--read-only', '-f', 'qcow2', '--bitmap', 'since', image];
    const { address } = await real(startPlainQemuNbd(folder, args));
    const client = await connect(address, { contexts: [dirtyBitmapContext('since'), ALLOCATION] });
    expect(client.export.readOnly).toBe(true);
    expect(await readExtents(client, 'since')).toEqual({
      dirty: [{ offset: MiB, length: 65_536 }, { offset: 2 * MiB, length: 65_536 }, { offset: 8_323_072, length: 65_536 }], // prettier-ignore
      zero: [{ offset: 2 * MiB, length: 65_536 }, { offset: 4 * MiB, length: 8_323_072 - 4 * MiB }], // prettier-ignore
    });
    await expect(NbdClient.connect(address, { exportName: 'vdz' })).rejects.toMatchObject({ refusal: 'export' });
  });

  it('fails every pending request at once when it is killed', async () => {
    const { folder, file } = await rawFile(pattern(3 * MiB));
    // The reads of nbdkit wait for a minute behind qemu-nbd.
    const slow = await real(startNbdkit(folder, ['--filter=delay', 'file', file, 'rdelay=60']));
    if (slow.address.kind !== 'unix') throw new Error('not on a unix socket');
    const uri = `nbd+unix:///?socket=${slow.address.path}`;
    const server = await real(startPlainQemuNbd(folder, ['-f', 'raw', uri]));
    const client = await connect(server.address);
    const reads = Array.from({ length: 8 }, (_, index) => client.read(index * 4096, Buffer.alloc(4096)));
    server.child.kill('SIGKILL');
    for (const read of await Promise.allSettled(reads)) {
      expect(read).toMatchObject({ status: 'rejected', reason: expect.any(NbdConnectionLost) as unknown });
    }
    expect(await client.ended).toBeInstanceOf(NbdConnectionLost);
  });
});

describe('nbdkit with filters', () => {
  const size = 3 * MiB;
  const filtered = async (...args: string[]): Promise<NbdAddress> => {
    const { folder, file } = await rawFile(pattern(size));
    return (await real(startNbdkit(folder, [...args.slice(0, 1), 'file', file, ...args.slice(1)]))).address;
  };

  it('error: one request fails by its name, and the connection goes on', async () => {
    const client = await connect(await filtered('--filter=error', 'error-pread=EIO', 'error-pread-rate=100%'));
    await expect(client.read(0, Buffer.alloc(512))).rejects.toMatchObject({ errno: 'EIO' });
    await client.write(0, Buffer.alloc(512));
    const full = await connect(await filtered('--filter=error', 'error-pwrite=ENOSPC', 'error-pwrite-rate=100%'));
    await expect(full.write(0, Buffer.alloc(512))).rejects.toThrow(NbdServerError);
    await expect(full.write(0, Buffer.alloc(512))).rejects.toMatchObject({ errno: 'ENOSPC' });
  });

  it('error: a pull in which one read of many fails never succeeds', async () => {
    const client = await connect(await filtered('--filter=error', 'error-pread=EIO', 'error-pread-rate=20%'));
    const target = await connect((await startFake({ disk: Buffer.alloc(size) })).address);
    const ranges = [{ offset: 0, length: size, kind: 'data' }] as const;
    await expect(pull(client, ranges, sinkOf(target), { pieceSize: 4096 })).rejects.toMatchObject({ errno: 'EIO' });
  });

  it('delay: a deadline that is missed ends all, one that is not does not', async () => {
    const address = await filtered('--filter=delay', 'rdelay=1');
    const patient = await connect(address);
    const block = Buffer.alloc(512, 0xee);
    await patient.read(0, block);
    expect(block.equals(pattern(size).subarray(0, 512))).toBe(true);
    const hasty = await connect(address, { deadlines: { requestMs: 100 } });
    const reads = [hasty.read(0, block), hasty.read(512, Buffer.alloc(512))];
    for (const read of await Promise.allSettled(reads)) {
      expect(read).toMatchObject({ status: 'rejected', reason: expect.any(NbdDeadline) as unknown });
    }
  });

  it('rate: a slow server is waited for', async () => {
    const client = await connect(await filtered('--filter=rate', 'rate=32M'));
    const into = Buffer.alloc(size);
    await client.read(0, into);
    expect(into.equals(pattern(size))).toBe(true);
  });

  it('block sizes that it demands are kept', async () => {
    const sizes = ['blocksize-minimum=4096', 'blocksize-preferred=8192', 'blocksize-maximum=65536'];
    const client = await connect(await filtered('--filter=blocksize-policy', ...sizes, 'blocksize-error-policy=error'));
    expect(client.export).toMatchObject({ minBlock: 4096, preferredBlock: 8192, maxPayload: 65_536 });
    await expect(client.read(512, Buffer.alloc(512))).rejects.toThrow(NbdRequestError);
    await expect(client.read(0, Buffer.alloc(128 * KiB))).rejects.toThrow(NbdRequestError);
    await client.read(4096, Buffer.alloc(64 * KiB));
  });

  it('no structured replies: reads work, and extents are refused', async () => {
    const { folder, file } = await rawFile(pattern(size));
    const { address } = await real(startNbdkit(folder, ['--no-sr', 'file', file]));
    const into = Buffer.alloc(size);
    await (await connect(address)).read(0, into);
    expect(into.equals(pattern(size))).toBe(true);
    await expect(NbdClient.connect(address, { contexts: [ALLOCATION] })).rejects.toMatchObject({
      refusal: 'unsupported',
    });
  });
});

/** Short, for what never answers. */
const HASTY = { requestMs: 500, flushMs: 500, closeMs: 500 };

describe('a hostile server', () => {
  const disk = (): Buffer => pattern(3 * MiB);

  it.each<Stage>(['connect', 'flags', 'structured', 'contexts', 'go'])(
    'that hangs or hangs up at %s',
    async (stage) => {
      const contexts = { [ALLOCATION]: allocationOf(3 * MiB) };
      for (const [instead, error] of [
        ['hang', NbdDeadline],
        ['hang-up', NbdConnectionLost],
      ] as const) {
        // prettier-ignore
        const fake = await startFake({ disk: disk(), contexts, atStage: (at) => (at === stage ? instead : undefined) });
        const deadlines = instead === 'hang' ? { connectMs: 500 } : {};
        const opening = NbdClient.connect(fake.address, { contexts: [ALLOCATION], deadlines });
        await expect(opening).rejects.toThrow(error);
      }
    },
  );

  it.each<[string, Stage, Buffer]>([
    ['bad magic', 'connect', Buffer.from('220 smtp ready\r\n\r\n')],
    ['a reply to another option', 'structured', optionReply(7, 1)],
    ['a size beyond all numbers', 'go', exportInfo(2n ** 64n - 1n, 1)],
    ['an endless reply', 'go', optionReply(7, 3).fill(0xff, 16, 20)],
  ])('that greets with %s', async (_name, stage, said) => {
    const fake = await startFake({ disk: disk(), atStage: (at) => (at === stage ? said : undefined) });
    await expect(NbdClient.connect(fake.address, { deadlines: HASTY })).rejects.toThrow(NbdProtocolViolation);
  });

  it('that demands TLS or has no such export', async () => {
    const tls = await startFake({
      disk: disk(),
      atStage: (at) => (at === 'structured' ? optionReply(8, 0x8000_0005) : undefined),
    });
    await expect(NbdClient.connect(tls.address)).rejects.toMatchObject({ refusal: 'tls' });
    const other = await startFake({ disk: disk(), exportName: 'vda' });
    await expect(NbdClient.connect(other.address, { exportName: 'vdb' })).rejects.toMatchObject({ refusal: 'export' });
  });

  const bytes = Buffer.alloc(4096, 0xab);
  it.each<[string, new (...args: never[]) => Error, (cookie: bigint) => Buffer | 'hang' | 'hang-up']>([
    ['hangs', NbdDeadline, () => 'hang'],
    ['hangs up', NbdConnectionLost, () => 'hang-up'],
    ['hangs in the middle of a chunk', NbdDeadline, (cookie) => dataChunk(cookie, 0, bytes).subarray(0, 1000)],
    ['hangs before the last chunk', NbdDeadline, (cookie) => dataChunk(cookie, 0, bytes)],
    ['sends an oversized chunk', NbdProtocolViolation, (cookie) => chunk(cookie, 1, u64(0), { length: 2 ** 31 })],
    ['sends more than was asked for', NbdProtocolViolation, (cookie) => dataChunk(cookie, 0, Buffer.alloc(4097), true)],
    ['sends other bytes of the disk', NbdProtocolViolation, (cookie) => dataChunk(cookie, 4096, bytes, true)],
    [
      'sends overlapping chunks',
      NbdProtocolViolation,
      (cookie) => Buffer.concat([dataChunk(cookie, 0, bytes.subarray(1)), holeChunk(cookie, 0, 4096, true)]),
    ],
    ['sends too little', NbdProtocolViolation, (cookie) => dataChunk(cookie, 0, bytes.subarray(1), true)],
    ['answers another request', NbdProtocolViolation, (cookie) => doneChunk(cookie + 100n)],
    [
      'is done twice',
      NbdProtocolViolation,
      (cookie) => Buffer.concat([errorChunk(cookie + 1n, 5, '', { done: true }), doneChunk(cookie + 1n)]),
    ],
    ['answers without chunks', NbdProtocolViolation, (cookie) => simpleReply(cookie)],
    ['sends nonsense', NbdProtocolViolation, () => Buffer.alloc(64, 0x5a)],
    ['answers with an error', NbdServerError, (cookie) => errorChunk(cookie, 5, 'no', { offset: 12, done: true })],
  ])('that %s when it is read from', async (_name, error, answer) => {
    // The second request of each pair gets no answer of its own.
    const fake = await startFake({
      disk: disk(),
      onRequest: ({ command, cookie }) =>
        command === NbdCommand.read && cookie % 2n === 1n
          ? answer(cookie)
          : command === NbdCommand.read
            ? 'hang'
            : undefined,
    });
    const client = await connect(fake.address, { deadlines: HASTY });
    const [first, second] = await Promise.allSettled([
      client.read(0, Buffer.alloc(4096)),
      client.read(4096, Buffer.alloc(4096)),
    ]);
    expect(first).toMatchObject({ status: 'rejected', reason: expect.any(error) as unknown });
    expect(second.status).toBe('rejected');
    // And a pull through it ends the same way, with nothing counted as done.
    const again = await connect(fake.address, { deadlines: HASTY });
    const sink = { write: () => Promise.resolve(), zero: () => Promise.resolve(), flush: () => Promise.reject(new Error('finished')) }; // prettier-ignore
    const ranges = [{ offset: 0, length: 4096, kind: 'data' }] as const;
    await expect(pull(again, ranges, sink)).rejects.toThrow(error);
  });

  it('whose bytes after the end of a connection reach no buffer', async () => {
    const fake = await startFake({
      disk: disk(),
      onRequest: ({ cookie }) => Buffer.concat([dataChunk(cookie, 0, bytes.subarray(0, 100)), Buffer.alloc(MiB, 0xcd)]),
    });
    const client = await connect(fake.address, { deadlines: HASTY });
    const into = Buffer.alloc(4096, 0xee);
    await expect(client.read(0, into)).rejects.toThrow(NbdProtocolViolation);
    const then = Buffer.from(into);
    await client.ended;
    expect(into.equals(then)).toBe(true);
    expect(into.includes(0xcd)).toBe(false);
  });

  it.each<[string, (cookie: bigint) => Buffer]>([
    ['of no length', (cookie) => statusChunk(cookie, 1, [[0, 0]], true)],
    ['of another context', (cookie) => statusChunk(cookie, 2, [[3 * MiB, 0]], true)],
    ['beyond the end', (cookie) => statusChunk(cookie, 1, [[3 * MiB, 0], [512, 0]], true)], // prettier-ignore
    ['and none', doneChunk],
    ['in an oversized chunk', (cookie) => chunk(cookie, 5, u32(1), { length: 0xffff_fffc })],
  ])('that tells extents %s', async (_name, answer) => {
    const fake = await startFake({
      disk: disk(),
      contexts: { [ALLOCATION]: allocationOf(3 * MiB) },
      onRequest: ({ command, cookie }) => (command === NbdCommand.blockStatus ? answer(cookie) : undefined),
    });
    const client = await connect(fake.address, { contexts: [ALLOCATION], deadlines: HASTY });
    await expect(readExtents(client)).rejects.toThrow(NbdProtocolViolation);
  });

  it('that does not answer a flush: the pull does not end well', async () => {
    const fake = await startFake({
      disk: disk(),
      onRequest: ({ command }) => (command === NbdCommand.flush ? 'hang' : undefined),
    });
    const client = await connect(fake.address, { deadlines: HASTY });
    await expect(pull(client, [], sinkOf(client))).rejects.toThrow(NbdDeadline);
  });

  it('that never hangs up is left after its deadline', async () => {
    const fake = await startFake({ disk: disk(), onRequest: () => 'hang' });
    const client = await connect(fake.address, { deadlines: HASTY });
    const read = client.read(0, Buffer.alloc(512));
    const lost = expect(read).rejects.toThrow(NbdConnectionLost);
    await client.close();
    await lost;
    expect(await client.ended).toBeUndefined();
    await client.close();
    const idle = await connect(fake.address, { deadlines: HASTY });
    await idle.close();
    expect(await idle.ended).toBeUndefined();
    expect(fake.requests.at(-1)).toMatchObject({ command: NbdCommand.disconnect });
  });
});

describe('extents of two contexts', () => {
  it('that end at different places are followed each by itself', async () => {
    const size = 3 * MiB;
    const allocation: Extents = Array.from({ length: 48 }, (_, index) => [64 * KiB, index % 3 === 0 ? 3 : 0] as const);
    const dirty: Extents = [[MiB, 0], [512, 1], [MiB - 512, 0], [MiB, 1]]; // prettier-ignore
    const contexts = { [ALLOCATION]: allocation, [dirtyBitmapContext('b')]: dirty };
    const fake = await startFake({ disk: pattern(size), contexts, extentsAtOnce: 1 });
    const client = await connect(fake.address, { contexts: Object.keys(contexts) });
    const found = await readExtents(client, 'b');
    expect(found.zero).toEqual(
      Array.from({ length: 16 }, (_, index) => ({ offset: index * 192 * KiB, length: 64 * KiB })),
    );
    expect(found.dirty).toEqual([{ offset: MiB, length: 512 }, { offset: 2 * MiB, length: MiB }]); // prettier-ignore
    expect(fake.requests.length).toBeGreaterThan(10);
  });
});

describe('a signal', () => {
  it('ends connecting, and a connection that is open with all that is pending', async () => {
    const silent = await startFake({ disk: Buffer.alloc(MiB), atStage: () => 'hang' });
    const early = new AbortController();
    const opening = expect(NbdClient.connect(silent.address, { signal: early.signal })).rejects.toThrow(NbdInterrupted);
    early.abort(new Error('enough'));
    await opening;
    await expect(NbdClient.connect(silent.address, { signal: early.signal })).rejects.toThrow(/enough/);

    const fake = await startFake({ disk: Buffer.alloc(MiB), onRequest: () => 'hang' });
    const later = new AbortController();
    const client = await connect(fake.address, { signal: later.signal });
    const read = expect(client.read(0, Buffer.alloc(512))).rejects.toThrow(NbdInterrupted);
    later.abort(new Error('enough'));
    await read;
    expect(await client.ended).toBeInstanceOf(NbdInterrupted);
  });
});

describe('nobody there', () => {
  it('is unreachable, by path, by port and by a path that is too long', async () => {
    const path = join(await makeFolder(), 'none');
    for (const address of [
      { kind: 'unix', path },
      { kind: 'unix', path: `/${'x'.repeat(200)}` },
      { kind: 'tcp', host: '127.0.0.1', port: 1 },
    ] as const) {
      await expect(NbdClient.connect(address)).rejects.toThrow(NbdUnreachable);
    }
  });
});
